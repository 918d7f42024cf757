//! What to do about a module that an environment imports and that is not installed.
//!
//! Entry point: [`explain`]. Invariant: a command that is named can be run as it is printed.

use std::path::Path;

use oxenv_host::{HostError, HostSource};

use crate::output::in_shell;
use crate::requirements::{Requirements, package};

/// An error of the host; where a module is missing, with the requirement that brings it and the command that
/// installs it. `is_named` says that `--python` named this Python.
pub(super) fn explain(error: &HostError, source: &HostSource, python: &str, is_named: bool) -> String {
    let Some(module) = &error.missing_module else { return error.message.clone() };
    let hint = match asked_for(source.folder.as_deref(), module) {
        Some(hint) if is_named => format!("{hint}, and leave out --python"),
        Some(hint) => hint,
        None => without_requirements(module, source, python),
    };
    format!("{}\n'{module}' is not installed in {python}: {hint}", error.message)
}

/// What installs a module by the requirements of the environment's folder, if it has any.
fn asked_for(folder: Option<&Path>, module: &str) -> Option<String> {
    let folder = folder?;
    // A file that cannot be read is an error of the command that is named here.
    let requirements = Requirements::of(folder, &|_| false).ok()??;
    let command = format!("oxenv env install {}", in_shell(&folder.to_string_lossy()));
    Some(match requirements.bringing(module) {
        Some((file, requirement)) => format!("{file} asks for {requirement}; run {command}"),
        None => {
            let files = requirements.files.join(" and ");
            format!("no requirement in {files} has its name; add one if {command} does not bring it")
        }
    })
}

fn without_requirements(module: &str, source: &HostSource, python: &str) -> String {
    if let Some((parent, child)) = module.rsplit_once('.') {
        return format!("the package '{parent}' has no module '{child}'");
    }
    let named = source.target.as_deref().and_then(|target| target.split(['.', ':']).next());
    if named == Some(module) && source.folder.is_none() {
        let place = source.path.as_deref().unwrap_or(Path::new(".")).display();
        return format!(
            "there is no module '{module}' in {place} either; run it where the module is, \
             or set --env PYTHONPATH=FOLDER, or name another Python with --python"
        );
    }
    let install = format!("{} -m pip install {}", in_shell(python), package(module));
    format!("run {install}, or name another Python with --python")
}
