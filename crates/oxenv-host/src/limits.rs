//! Limits of workers: a control group of the kernel for each where this process may make some, else rlimits.
//!
//! Invariant: a group is removed once its processes have ended; the groups of a server that was killed are
//! removed by the next server that makes some. The lock of a folder shows whether its server lives.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::protocol::WorkerLimits;
use crate::worker_exit::WorkerExit;

/// The exit code of a worker that was refused memory by its rlimit; `worker.py` has it, too.
const EXIT_OUT_OF_MEMORY: i32 = 98;
/// SIGXCPU, with which the kernel ends a process that has used its CPU time.
const CPU_TIME_SIGNAL: i32 = 24;
/// How the folder of a server's groups is called, before its process number.
const FOLDER_PREFIX: &str = "oxenv-";
/// The group that a server moves to where groups with subgroups may hold no process.
const OWN_GROUP: &str = "server";
/// The file of a group that lists its processes.
const PROCESSES: &str = "cgroup.procs";

/// Limits each worker.
pub(crate) struct Limiter {
    limits: WorkerLimits,
    memory: Option<Hierarchy>,
    processes: Option<Hierarchy>,
    /// The folders of groups, with the locks that show that their server lives.
    folders: Vec<(PathBuf, File)>,
    /// Groups whose processes had not ended yet.
    leaving: Arc<Mutex<Vec<PathBuf>>>,
}

/// The limits of one worker.
#[derive(Default)]
pub(crate) struct AppliedLimits {
    limits: WorkerLimits,
    /// Those that its process has to set for itself.
    pub(crate) rlimits: WorkerLimits,
    /// The files by which its process enters its groups.
    pub(crate) groups: Vec<PathBuf>,
    /// The file that counts the processes that were ended for want of memory.
    memory_events: Option<PathBuf>,
    leaving: Arc<Mutex<Vec<PathBuf>>>,
}

/// Where groups with one kind of limit are made.
#[derive(Clone)]
struct Hierarchy {
    version: Version,
    /// This process's own group at first, then the folder of its workers' groups.
    folder: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Limiter {
    /// Finds out how limits can be set.
    ///
    /// # Errors
    /// One of them cannot be set at all.
    pub(crate) fn new(limits: WorkerLimits) -> io::Result<Self> {
        let wanted = [("memory", limits.memory), ("pids", limits.processes)];
        let wanted = wanted.map(|(name, limit)| limit.and_then(|_| Hierarchy::of(name)));
        let [memory, processes] = wanted;
        let mut limiter = Limiter { limits, memory, processes, folders: Vec::new(), leaving: Arc::default() };
        limiter.memory = limiter.prepared(limiter.memory.clone());
        limiter.processes = limiter.prepared(limiter.processes.clone());
        let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        if limits.processes.is_some() && limiter.processes.is_none() && root {
            return Err(io::Error::other(
                "--worker-processes cannot hold here: there is no control group (cgroup) with the controller \
                 'pids' that this process may write to, and without one root has no limit; run it as another \
                 user, or in a container with a writable cgroup",
            ));
        }
        Ok(limiter)
    }

    /// The limits and what enforces them, for people; absent without limits.
    pub(crate) fn describe(&self) -> Option<String> {
        let by = |group: bool| if group { "cgroup" } else { "rlimit" };
        let memory = self
            .limits
            .memory
            .map(|bytes| format!("memory {} by {}", shown_size(bytes), by(self.memory.is_some())));
        let processes = self
            .limits
            .processes
            .map(|count| format!("{count} processes and threads by {}", by(self.processes.is_some())));
        let cpu = self.limits.cpu_seconds.map(|seconds| format!("{seconds} s of CPU time by rlimit"));
        let all: Vec<String> = [memory, processes, cpu].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Limits for the next worker.
    pub(crate) fn apply(&self, worker: u64) -> io::Result<AppliedLimits> {
        self.sweep();
        let mut applied = AppliedLimits {
            limits: self.limits,
            rlimits: self.limits,
            groups: Vec::new(),
            memory_events: None,
            leaving: Arc::clone(&self.leaving),
        };
        if let (Some(hierarchy), Some(bytes)) = (&self.memory, self.limits.memory) {
            let group = applied.enter(&hierarchy.folder, worker)?;
            applied.memory_events = Some(hierarchy.limit_memory(&group, bytes)?);
            applied.rlimits.memory = None;
        }
        if let (Some(hierarchy), Some(count)) = (&self.processes, self.limits.processes) {
            let group = applied.enter(&hierarchy.folder, worker)?;
            write(&group, "pids.max", count)?;
            applied.rlimits.processes = None;
        }
        Ok(applied)
    }

    /// Removes the groups whose processes have ended since.
    fn sweep(&self) {
        self.leaving.lock().retain(|group| fs::remove_dir(group).is_err_and(|error| !is_gone(&error)));
    }

    /// A hierarchy with a folder for groups, and with a limit that has been set for a trial.
    fn prepared(&mut self, hierarchy: Option<Hierarchy>) -> Option<Hierarchy> {
        let own = hierarchy?;
        let folder = own.folder.join(format!("{FOLDER_PREFIX}{}", std::process::id()));
        let made = match self.folders.iter().any(|(known, _)| *known == folder) {
            true => Ok(()),
            false => {
                remove_abandoned(&own.folder);
                own.make_folder(&folder).map(|lock| self.folders.push((folder.clone(), lock)))
            }
        };
        let prepared = Hierarchy { version: own.version, folder: folder.clone() };
        match made.and_then(|()| prepared.try_out()) {
            Ok(()) => Some(prepared),
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "no control groups can be made here");
                None
            }
        }
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.sweep();
        for (folder, _lock) in &self.folders {
            remove_groups(folder);
        }
    }
}

impl AppliedLimits {
    /// Makes a group for a worker, or finds the one that was made for another limit.
    fn enter(&mut self, folder: &Path, worker: u64) -> io::Result<PathBuf> {
        let group = folder.join(worker.to_string());
        let entrance = group.join(PROCESSES);
        if !self.groups.contains(&entrance) {
            fs::create_dir(&group)?;
            self.groups.push(entrance);
        }
        Ok(group)
    }

    /// Which limit ended a process, if one did.
    pub(crate) fn exceeded(&self, exit: Option<&WorkerExit>) -> Option<String> {
        let refused = self.rlimits.memory.is_some() && exit == Some(&WorkerExit::Code(EXIT_OUT_OF_MEMORY));
        let killed = self.memory_events.as_deref().is_some_and(has_killed);
        match self.limits {
            WorkerLimits { memory: Some(bytes), .. } if refused || killed => {
                Some(format!("needed more memory than the {} of --worker-memory", shown_size(bytes)))
            }
            WorkerLimits { cpu_seconds: Some(seconds), .. }
                if exit == Some(&WorkerExit::Signal(CPU_TIME_SIGNAL)) =>
            {
                Some(format!("used up the {seconds} s of CPU time of --worker-cpu-seconds"))
            }
            _ => None,
        }
    }
}

impl Drop for AppliedLimits {
    fn drop(&mut self) {
        for group in self.groups.iter().filter_map(|entrance| entrance.parent()) {
            if fs::remove_dir(group).is_err_and(|error| !is_gone(&error)) {
                self.leaving.lock().push(group.to_owned());
            }
        }
    }
}

impl Hierarchy {
    /// This process's group in the hierarchy that has a controller, if there is one.
    fn of(controller: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        mounts.lines().find_map(|mount| {
            let (place, kind) = mount.split_once(" - ")?;
            let mut place = place.split(' ').skip(3);
            let (root, point) = (place.next()?, place.next()?);
            let mut kind = kind.split(' ');
            let version = match (kind.next()?, kind.next_back()?) {
                ("cgroup", options) if options.split(',').any(|option| option == controller) => Version::One,
                ("cgroup2", _) => Version::Two,
                _ => return None,
            };
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let is_it = match version {
                    Version::One => controllers.split(',').any(|each| each == controller),
                    Version::Two => controllers.is_empty(),
                };
                is_it.then_some(path)
            })?;
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let folder = Path::new(point).join(below.strip_prefix("/").unwrap_or(below));
            let has = version == Version::One || lists(&folder.join("cgroup.controllers"), controller);
            has.then_some(Hierarchy { version, folder })
        })
    }

    /// Makes the folder of this server's groups below its own group; gives its lock.
    fn make_folder(&self, folder: &Path) -> io::Result<File> {
        fs::create_dir(folder)?;
        let lock = File::open(folder).and_then(|lock| lock.try_lock().map(|()| lock).map_err(Into::into));
        let made = match self.version {
            Version::One => Ok(()),
            Version::Two => self.pass_controllers_on(folder),
        };
        if made.is_err() || lock.is_err() {
            remove_groups(folder);
        }
        made.and(lock)
    }

    /// Lets the groups in a folder have limits. A group whose subgroups have limits may hold no process, so
    /// this process moves to one of its own.
    fn pass_controllers_on(&self, folder: &Path) -> io::Result<()> {
        let available = fs::read_to_string(self.folder.join("cgroup.controllers"))?;
        let known = ["memory", "pids"]
            .into_iter()
            .filter(|name| available.split_whitespace().any(|each| each == *name));
        let all = known.map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
        if write(&self.folder, "cgroup.subtree_control", &all).is_err() {
            let own = folder.join(OWN_GROUP);
            fs::create_dir(&own)?;
            write(&own, PROCESSES, std::process::id())?;
            if let Err(error) = write(&self.folder, "cgroup.subtree_control", &all) {
                // Others are in the group as well.
                write(&self.folder, PROCESSES, std::process::id())?;
                return Err(error);
            }
        }
        write(folder, "cgroup.subtree_control", &all)
    }

    /// Sets the memory of a group; gives the file that counts what that ended.
    fn limit_memory(&self, group: &Path, bytes: u64) -> io::Result<PathBuf> {
        match self.version {
            Version::One => {
                write(group, "memory.limit_in_bytes", bytes)?;
                // Where the kernel counts swap.
                let _ = write(group, "memory.memsw.limit_in_bytes", bytes);
                Ok(group.join("memory.oom_control"))
            }
            Version::Two => {
                write(group, "memory.max", bytes)?;
                let _ = write(group, "memory.swap.max", 0);
                write(group, "memory.oom.group", 1)?;
                Ok(group.join("memory.events"))
            }
        }
    }

    /// Makes a group and removes it.
    fn try_out(&self) -> io::Result<()> {
        let group = self.folder.join("trial");
        fs::create_dir(&group)?;
        fs::remove_dir(&group)
    }
}

/// Removes the folders of servers that do not live any more.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX);
        if ours && File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok()) {
            remove_groups(&entry.path());
        }
    }
}

/// Removes a folder and the groups in it, as far as they are empty.
fn remove_groups(folder: &Path) {
    for group in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(group.path());
    }
    let _ = fs::remove_dir(folder);
}

/// Sets a value of a group: its file exists.
fn write(group: &Path, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let file = group.join(name);
    fs::write(&file, value.to_string())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

/// Whether a file of words has one of them.
fn lists(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|each| each == word))
}

/// Whether a group has lost a process for want of memory.
fn has_killed(events: &Path) -> bool {
    let text = fs::read_to_string(events).unwrap_or_default();
    let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    killed.is_some_and(|count| count.trim() != "0")
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// A size with the largest unit that divides it.
fn shown_size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{bytes} bytes"),
    }
}
