//! What can be served, and what a name on the command line means.
//!
//! Invariant: a name is a bundled environment; else an existing path; else `package.module:Name`;
//! else an error with the nearest name, or with why the path is no environment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxenv_core::EnvironmentFactory;
use oxenv_wire::preview;

use crate::exit::usage;
use crate::hosted::{self, PythonEnvironment};

/// The bundled environment of a name.
pub(crate) fn bundled(name: &str) -> Option<Arc<dyn EnvironmentFactory>> {
    oxenv_envs::all().into_iter().find(|factory| factory.spec().name == name)
}

/// The names of the bundled environments.
pub(crate) fn names() -> Vec<String> {
    oxenv_envs::all().iter().map(|factory| factory.spec().name.clone()).collect()
}

/// The meaning of a name.
pub(crate) enum ServedName {
    /// A bundled environment.
    Environment(Arc<dyn EnvironmentFactory>),
    /// A manifest, which is an environment of tools alone.
    Manifest(PathBuf),
    /// An environment written in Python, and the tools that its folder adds.
    Python(PythonEnvironment, Option<PathBuf>),
}

/// Finds what a name means.
pub(crate) fn resolve(name: &str) -> anyhow::Result<ServedName> {
    if let Some(factory) = bundled(name) {
        return Ok(ServedName::Environment(factory));
    }
    let path = Path::new(name);
    if let Some(manifest) = manifest(path) {
        return Ok(ServedName::Manifest(manifest));
    }
    let folder = match path.ends_with("openenv.yaml") {
        true => path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        false => path,
    };
    if let Some(python) = hosted::in_folder(folder)? {
        let tools = folder.join("tools.yaml");
        return Ok(ServedName::Python(python, tools.is_file().then_some(tools)));
    }
    if path.exists() {
        return Err(usage(explain_path(path)));
    }
    let shown = preview(name);
    if is_python_name(name) {
        return Ok(ServedName::Python(hosted::by_name(name), None));
    }
    Err(usage(match nearest(name) {
        Some(near) => format!("no environment is called '{shown}'; did you mean '{near}'? (all: oxenv envs)"),
        None => format!("no environment is called '{shown}'; there are {}", names().join(", ")),
    }))
}

/// The manifest that a path means: a YAML file, or the tools.yaml of a folder that holds no other
/// environment.
fn manifest(path: &Path) -> Option<PathBuf> {
    let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    if path.is_file() && is_yaml && !path.ends_with("openenv.yaml") {
        return Some(path.to_owned());
    }
    let inside = path.join("tools.yaml");
    (path.is_dir() && inside.is_file() && !path.join("openenv.yaml").exists()).then_some(inside)
}

fn explain_path(path: &Path) -> String {
    let shown = path.display();
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match (path.is_dir(), extension) {
        (true, _) => {
            format!(
                "{shown} has no openenv.yaml, no server/app.py and no tools.yaml, so it is no environment"
            )
        }
        (false, "py") => {
            let module = path.file_stem().unwrap_or_default().to_string_lossy();
            format!("{shown} is a module: name the class in it, as {module}:MyEnvironment")
        }
        (false, _) => {
            format!("{shown} is no environment: expected a folder with openenv.yaml, or a manifest")
        }
    }
}

/// Whether a name has the form `package.module:Name`.
fn is_python_name(name: &str) -> bool {
    let identifier = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && chars.all(|rest| rest.is_alphanumeric() || rest == '_')
    };
    name.split_once(':').is_some_and(|(module, class)| module.split('.').all(identifier) && identifier(class))
}

fn nearest(name: &str) -> Option<String> {
    let close = |known: &String| strsim::jaro_winkler(name, known);
    let best = names().into_iter().max_by(|one, two| close(one).total_cmp(&close(two)))?;
    (close(&best) > 0.75).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_name_would_have_to_be() {
        let error = |name: &str| resolve(name).err().unwrap().to_string();
        assert!(resolve("echo").is_ok());
        assert!(error("conect4").contains("did you mean 'connect4'"));
        assert!(matches!(resolve("package.module:MyEnv"), Ok(ServedName::Python(..))));
        assert!(error("zzz").contains("there are connect4, echo"));
        assert!(error("src").contains("no openenv.yaml, no server/app.py and no tools.yaml"));
    }
}
