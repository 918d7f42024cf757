//! What the folder of a Python environment says that it needs.
//!
//! Entry point: [`Requirements::of`]. Invariant: nothing is guessed: what is installed is what the folder
//! lists.

use std::path::Path;

use crate::exit::usage;

/// Where requirements are looked for, in words.
pub(crate) const PLACES: &str = "[project] of pyproject.toml, server/requirements.txt and requirements.txt";

/// The file of a project.
const PROJECT: &str = "pyproject.toml";
/// The versions that uv chose for a project.
const LOCK: &str = "uv.lock";
/// The files of requirements alone.
const LISTS: [&str; 2] = ["server/requirements.txt", "requirements.txt"];
/// Packages that are not called as the module that they bring.
const PACKAGES: [(&str, &str); 14] = [
    ("PIL", "pillow"),
    ("attr", "attrs"),
    ("bs4", "beautifulsoup4"),
    ("cv2", "opencv-python"),
    ("dateutil", "python-dateutil"),
    ("dotenv", "python-dotenv"),
    ("google.protobuf", "protobuf"),
    ("grpc", "grpcio"),
    ("jwt", "pyjwt"),
    ("psycopg2", "psycopg2-binary"),
    ("pyspiel", "open_spiel"),
    ("serial", "pyserial"),
    ("sklearn", "scikit-learn"),
    ("yaml", "pyyaml"),
];

/// The requirements of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Requirements {
    /// The files that list them, relative to the folder.
    pub(crate) files: Vec<&'static str>,
    /// What pip and uv are asked to install, in the folder.
    pub(crate) arguments: Vec<String>,
    /// What uv has for the project beside its requirements.
    pub(crate) of_uv: UvProject,
    /// Whether installing needs more of the folder than these files.
    pub(crate) needs_folder: bool,
    /// Each requirement with the file that lists it.
    listed: Vec<(&'static str, String)>,
}

/// What uv knows of a project, and pip does not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UvProject {
    /// Whether `uv.lock` has the version of each package.
    pub(crate) has_lock: bool,
    /// Whether `[tool.uv.sources]` says where packages come from.
    pub(crate) has_sources: bool,
}

impl UvProject {
    /// What is there, in words; absent if nothing is.
    pub(crate) fn describe(self) -> Option<&'static str> {
        match (self.has_lock, self.has_sources) {
            (true, true) => Some("uv.lock and [tool.uv.sources] of pyproject.toml"),
            (true, false) => Some("uv.lock"),
            (false, true) => Some("[tool.uv.sources] of pyproject.toml"),
            (false, false) => None,
        }
    }
}

impl Requirements {
    /// Reads those of a folder; nothing if no file of it lists requirements. Files that `is_left_out` names
    /// are as good as absent.
    ///
    /// # Errors
    /// A file cannot be read, or is no TOML, or lists what is no requirement.
    pub(crate) fn of(folder: &Path, is_left_out: &dyn Fn(&str) -> bool) -> anyhow::Result<Option<Self>> {
        let mut found = Requirements::default();
        let is_there = |file: &&str| folder.join(file).is_file() && !is_left_out(file);
        if is_there(&PROJECT) {
            found.read_project(folder)?;
        }
        for file in LISTS.into_iter().filter(is_there) {
            let text = read(folder, file)?;
            let lines = text.lines().map(|line| line.split(" #").next().unwrap_or(line).trim());
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                // Other files, folders and options.
                let is_plain = line.starts_with(char::is_alphanumeric) && !line.contains("file:");
                found.needs_folder |= !is_plain;
                found.listed.extend(is_plain.then(|| (file, line.to_owned())));
            }
            found.arguments.extend(["-r".to_owned(), file.to_owned()]);
            found.files.push(file);
        }
        Ok((!found.files.is_empty()).then_some(found))
    }

    fn read_project(&mut self, folder: &Path) -> anyhow::Result<()> {
        let shown = folder.join(PROJECT);
        let file: toml::Table =
            read(folder, PROJECT)?.parse().map_err(|error| usage(format!("{}: {error}", shown.display())))?;
        let Some(project) = file.get("project") else { return Ok(()) };
        self.files.push(PROJECT);
        let sources = file.get("tool").and_then(|tool| tool.get("uv")?.get("sources")?.as_table());
        self.of_uv = UvProject {
            has_lock: folder.join(LOCK).is_file(),
            has_sources: sources.is_some_and(|sources| !sources.is_empty()),
        };
        let names = |key: &str| -> Vec<&str> {
            let list = project.get(key).and_then(toml::Value::as_array);
            list.into_iter().flatten().filter_map(toml::Value::as_str).collect()
        };
        if names("dynamic").contains(&"dependencies") {
            // Only its build knows them.
            self.arguments.push(".".to_owned());
            self.needs_folder = true;
            return Ok(());
        }
        for requirement in names("dependencies") {
            if requirement.starts_with('-') {
                let shown = shown.display();
                return Err(usage(format!("{shown}: '{requirement}' in dependencies is no requirement")));
            }
            self.arguments.push(requirement.to_owned());
            self.listed.push((PROJECT, requirement.to_owned()));
        }
        Ok(())
    }

    /// What uv is asked to install once the project itself is installed.
    pub(crate) fn lists(&self) -> Vec<String> {
        let lists = self.files.iter().filter(|file| **file != PROJECT);
        lists.flat_map(|file| ["-r".to_owned(), (*file).to_owned()]).collect()
    }

    /// The requirement that brings a module, as far as names show it, with the file that lists it.
    pub(crate) fn bringing(&self, module: &str) -> Option<(&'static str, &str)> {
        let package = package(module);
        let by = |fits: &dyn Fn(&str) -> bool| {
            self.listed.iter().find(|(_, line)| fits(name(line))).map(|(file, line)| (*file, line.as_str()))
        };
        by(&|name| plain(name) == plain(package)).or_else(|| {
            let words = |name: &str| name.split(['-', '_', '.']).any(|word| plain(word) == plain(package));
            by(&words)
        })
    }
}

/// The package that brings a module: it has the module's name unless it is known to have another.
pub(crate) fn package(module: &str) -> &str {
    PACKAGES.iter().find(|(known, _)| *known == module).map_or(module, |(_, package)| package)
}

/// The name at the start of a requirement.
fn name(requirement: &str) -> &str {
    let end = requirement.find(|part: char| !part.is_alphanumeric() && !"-_.".contains(part));
    &requirement[..end.unwrap_or(requirement.len())]
}

/// A name without what may be written in several ways.
fn plain(name: &str) -> String {
    name.to_lowercase().replace(['-', '_', '.'], "")
}

fn read(folder: &Path, file: &str) -> anyhow::Result<String> {
    let path = folder.join(file);
    std::fs::read_to_string(&path).map_err(|error| usage(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(lines: &[&str]) -> Requirements {
        let listed = lines.iter().map(|line| (PROJECT, (*line).to_owned())).collect();
        Requirements { files: vec![PROJECT], listed, ..Requirements::default() }
    }

    #[test]
    fn a_module_is_brought_by_the_requirement_of_its_name() {
        for (module, lines, brings) in [
            ("chess", &["openenv==0.10.0", "python-chess>=1.0", "chess==1.11.2"][..], Some("chess==1.11.2")),
            ("chess", &["python-chess>=1.0"], Some("python-chess>=1.0")),
            ("ale_py", &["ale-py[vector] ~= 0.12"], Some("ale-py[vector] ~= 0.12")),
            ("openenv", &["openenv-core>=0.2"], Some("openenv-core>=0.2")),
            ("PIL", &["openenv", "Pillow"], Some("Pillow")),
            ("google.generativeai", &["google-generativeai"], Some("google-generativeai")),
            ("gym", &["gymnasium"], None),
            ("re", &["requests"], None),
        ] {
            let found = listing(lines);
            assert_eq!(found.bringing(module), brings.map(|line| (PROJECT, line)), "{module}");
        }
    }

    #[test]
    fn all_files_of_a_folder_are_read_together() {
        let folder = std::env::temp_dir().join(format!("oxenv-requirements-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("server")).unwrap();
        let nothing_left_out = |_: &str| false;
        let found = || Requirements::of(&folder, &nothing_left_out);
        assert_eq!(found().unwrap(), None);
        std::fs::write(folder.join(PROJECT), "[build-system]\n").unwrap();
        assert_eq!(found().unwrap(), None);
        std::fs::write(folder.join(PROJECT), "[project]\ndependencies = [\"openenv>=0.2\"]\n").unwrap();
        std::fs::write(folder.join("server/requirements.txt"), "# comment\n--pre\nnumpy  # sums\n").unwrap();
        let both = found().unwrap().unwrap();
        assert_eq!(both.files, [PROJECT, "server/requirements.txt"]);
        assert_eq!(both.arguments, ["openenv>=0.2", "-r", "server/requirements.txt"]);
        assert!(both.needs_folder);
        assert_eq!(both.bringing("numpy"), Some(("server/requirements.txt", "numpy")));
        let left_out = Requirements::of(&folder, &|file| file == PROJECT).unwrap().unwrap();
        assert_eq!(left_out.files, ["server/requirements.txt"]);
        std::fs::write(folder.join(PROJECT), "[project]\ndynamic = [\"dependencies\"]\n").unwrap();
        assert_eq!(found().unwrap().unwrap().arguments, [".", "-r", "server/requirements.txt"]);
        std::fs::write(folder.join(PROJECT), "[project]\ndependencies = [\"--index-url=x\"]\n").unwrap();
        assert!(found().unwrap_err().to_string().ends_with("is no requirement"));
        let _ = std::fs::remove_file(folder.join(PROJECT));
        let _ = std::fs::remove_file(folder.join("server/requirements.txt"));
        let _ = std::fs::remove_dir(folder.join("server")).and_then(|()| std::fs::remove_dir(&folder));
    }
}
