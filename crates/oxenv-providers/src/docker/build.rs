//! Building images with the daemon's own builder.
//!
//! Invariant: dropping a build's future ends the build. An error names the step of the build file that
//! failed.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use bollard::errors::Error;
use bollard::models::BuildInfo;
use bollard::query_parameters::{BuildImageOptions, BuildImageOptionsBuilder};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::DockerProvider;
use super::context::{BuildContext, GENERATED_BUILD_FILE};
use crate::error::{ProviderCode, ProviderError};

/// Lines of a build that an error shows.
const MAX_ERROR_LINES: usize = 20;
/// Pieces of the folder that are read ahead of the daemon.
const CHANNEL_CAPACITY: usize = 8;

/// An image to build.
#[derive(Debug, Clone, Default)]
pub struct BuildSpec {
    /// The folder that is sent to the daemon, without what its `.dockerignore` names.
    pub folder: PathBuf,
    /// The build file within the folder; `Dockerfile` if there is none.
    pub file: Option<PathBuf>,
    /// The text of the build file, if it is not in the folder.
    pub text: Option<String>,
    /// The image's name.
    pub tag: String,
    /// Arguments of the build. They can be read from the image: a secret has no place here.
    pub args: Vec<(String, String)>,
    /// The network of the build's commands, such as `host` or `none`; the daemon's usual one if there is
    /// none.
    pub network: Option<String>,
}

impl BuildSpec {
    /// Writes what is sent to the daemon, as a tar archive.
    ///
    /// # Errors
    /// [`InvalidSpec`](ProviderCode::InvalidSpec) for a folder or a build file that cannot be sent.
    pub fn write_archive(&self, out: impl std::io::Write) -> Result<(), ProviderError> {
        build_context(self)?.write_to(out)
    }
}

impl DockerProvider {
    /// Builds an image; `progress` is given each line that the daemon writes. Returns the image's
    /// id.
    ///
    /// # Errors
    /// [`InvalidSpec`](ProviderCode::InvalidSpec) for a folder or a build file that cannot be sent,
    /// [`ImageFailed`](ProviderCode::ImageFailed) with the step that failed and the lines before it,
    /// [`ProviderUnavailable`](ProviderCode::ProviderUnavailable) if the daemon goes away.
    pub async fn build(
        &self,
        spec: &BuildSpec,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<String, ProviderError> {
        let context = build_context(spec)?;
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let options = build_options(spec, &context.file);
        let packing = tokio::task::spawn_blocking(move || context.send(&sender));
        let body = stream::unfold(receiver, |mut receiver| async {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        });
        let mut events = self.docker.build_image(options, None, Some(bollard::body_try_stream(body)));
        let mut log = BuildLog::default();
        let failed = loop {
            match events.next().await {
                Some(Ok(info)) => log.add(info, progress),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        drop(events);
        // An error about the folder explains more than the daemon's error about a partial archive.
        if let Ok(Err(error)) = packing.await
            && (failed.is_none() || !log.has_begun())
        {
            return Err(error);
        }
        match (failed, log.image.take()) {
            (Some(error), _) => Err(log.failure(&spec.tag, error)),
            (None, Some(image)) => Ok(image),
            (None, None) => Err(log.ended_early(&spec.tag)),
        }
    }
}

fn build_context(spec: &BuildSpec) -> Result<BuildContext, ProviderError> {
    let invalid = |message| Err(ProviderError::new(ProviderCode::InvalidSpec, message));
    let folder = &spec.folder;
    if !folder.is_dir() {
        return invalid(format!("{} is no folder, so no image can be built from it", folder.display()));
    }
    if spec.text.is_some() {
        return Ok(BuildContext {
            folder: folder.clone(),
            file: GENERATED_BUILD_FILE.to_owned(),
            text: spec.text.clone(),
        });
    }
    let file = spec.file.as_deref().unwrap_or(Path::new("Dockerfile"));
    if !folder.join(file).is_file() {
        return invalid(format!("{} has no {}", folder.display(), file.display()));
    }
    match file.to_str() {
        Some(file) => Ok(BuildContext { folder: folder.clone(), file: file.to_owned(), text: None }),
        None => invalid(format!("{} is no UTF-8", file.display())),
    }
}

fn build_options(spec: &BuildSpec, file: &str) -> BuildImageOptions {
    let args: HashMap<String, String> = spec.args.iter().cloned().collect();
    let mut options = BuildImageOptionsBuilder::default()
        .dockerfile(file)
        .t(&spec.tag)
        .rm(true)
        .forcerm(true)
        .buildargs(&args);
    if let Some(network) = &spec.network {
        options = options.networkmode(network);
    }
    options.build()
}

/// A line that grows longer than this is taken for ended, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// The output of a build.
#[derive(Default)]
struct BuildLog {
    /// The step that runs, as the daemon names it: `Step 2/5 : RUN true`.
    step: Option<String>,
    lines: VecDeque<String>,
    /// A line that has no end yet.
    part: String,
    image: Option<String>,
}

impl BuildLog {
    fn add(&mut self, info: BuildInfo, progress: &mut (dyn FnMut(&str) + Send)) {
        if let Some(id) = info.aux.and_then(|aux| aux.id) {
            self.image = Some(id);
        }
        if let Some(text) = info.stream {
            self.part.push_str(&text);
        } else if let Some(status) = info.status
            && info.progress_detail.is_none()
        {
            let what = info.id.map_or(String::new(), |id| format!("{id}: "));
            self.part.push_str(&format!("{what}{status}\n"));
        }
        while let Some(end) = self.part.find('\n') {
            let line: String = self.part.drain(..=end).collect();
            self.line(line.trim_end(), progress);
        }
        if self.part.len() > MAX_LINE_BYTES {
            let line = std::mem::take(&mut self.part);
            self.line(&line, progress);
        }
    }

    fn line(&mut self, line: &str, progress: &mut (dyn FnMut(&str) + Send)) {
        if line.is_empty() {
            return;
        }
        progress(line);
        if line.starts_with("Step ") {
            self.step = Some(line.to_owned());
            // What earlier steps wrote has no part in a failure of this one.
            self.lines.clear();
            return;
        }
        if self.lines.len() == MAX_ERROR_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    fn has_begun(&self) -> bool {
        self.step.is_some()
    }

    fn failure(&self, tag: &str, error: Error) -> ProviderError {
        let (code, why) = match error {
            Error::DockerStreamError { error } => (ProviderCode::ImageFailed, error),
            Error::DockerResponseServerError { message, .. } => (ProviderCode::ImageFailed, message),
            other => (ProviderCode::ProviderUnavailable, format!("the daemon went away: {other}")),
        };
        self.error_with_log(code, format!("cannot build {tag}: {}{}", self.step_prefix(), why.trim()))
    }

    fn ended_early(&self, tag: &str) -> ProviderError {
        self.error_with_log(
            ProviderCode::ImageFailed,
            format!("cannot build {tag}: {}the daemon named no image", self.step_prefix()),
        )
    }

    fn step_prefix(&self) -> String {
        self.step.as_ref().map_or(String::new(), |step| format!("{step}: "))
    }

    fn error_with_log(&self, code: ProviderCode, message: String) -> ProviderError {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        ProviderError::new(code, message).with_logs(lines.join("\n"))
    }
}
