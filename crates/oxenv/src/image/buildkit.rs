//! Build files that the daemon's own builder cannot read, built with BuildKit through the command `docker`.
//!
//! Entry points: [`is_needed`], [`build`]. Invariant: BuildKit sees the same folder as the daemon's own
//! builder would, without what stays out of images.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use oxenv_providers::docker::BuildSpec;

use crate::env;
use crate::exit::usage;
use crate::shown_command::{ShownCommand, on_path};

/// How long the daemon may take to tell the id of an image.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Flags of RUN, COPY and ADD that the daemon's own builder knows.
const OLD_FLAGS: [&str; 2] = ["--chown", "--from"];

/// Whether a build file has what only BuildKit knows: `RUN --mount`, `COPY --link`, texts within it.
pub(super) fn is_needed(build_file: &str) -> bool {
    build_file.lines().any(|line| {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default().to_ascii_uppercase();
        if !["RUN", "COPY", "ADD"].contains(&first.as_str()) {
            return false;
        }
        let mut flags = words.clone().take_while(|word| word.starts_with("--"));
        let is_new = |flag: &str| !OLD_FLAGS.contains(&flag.split('=').next().unwrap_or(flag));
        let begins_text = |word: &str| {
            let delimiter = word.strip_prefix("<<").map(|rest| rest.trim_start_matches(['-', '"', '\'']));
            delimiter.is_some_and(|name| name.starts_with(|part: char| part.is_ascii_alphabetic()))
        };
        flags.any(is_new) || words.any(begins_text)
    })
}

/// Builds an image; returns its id.
///
/// # Errors
/// There is no `docker`, the folder cannot be packed, or the build fails.
pub(super) async fn build(spec: &BuildSpec, file: &Path) -> anyhow::Result<String> {
    let docker = on_path("docker")?.ok_or_else(|| {
        usage(format!(
            "{} needs BuildKit, which is used through the command docker, and there is none on the PATH; \
             install it, or leave that file aside with --base",
            file.display()
        ))
    })?;
    let host = env::docker_host().map(|host| match host.starts_with('/') {
        true => format!("unix://{host}"),
        false => host,
    });
    let on_daemon = || host.iter().flat_map(|host| ["--host".into(), OsString::from(host)]);
    let mut words: Vec<OsString> = [docker.clone().into()].into_iter().chain(on_daemon()).collect();
    words.extend(["build", "--progress", "plain", "--tag", &spec.tag, "--file"].map(OsString::from));
    words.push(file.into());
    for (name, value) in &spec.args {
        words.extend(["--build-arg".into(), format!("{name}={value}").into()]);
    }
    words.extend(spec.network.iter().flat_map(|network| ["--network".into(), network.into()]));
    words.push("-".into());
    let mut environment = env::inherited();
    environment.retain(|(name, _)| name != "DOCKER_BUILDKIT");
    environment.push(("DOCKER_BUILDKIT".into(), "1".into()));
    let packing = spec.clone();
    let archive = tokio::task::spawn_blocking(move || packed(&packing)).await??;
    let command = ShownCommand { words, folder: None, environment };
    command.run(Stdio::from(archive)).await.with_context(|| format!("cannot build {}", spec.tag))?;
    let program = docker.to_str().ok_or_else(|| anyhow!("{} is no UTF-8", docker.display()))?;
    let mut words: Vec<&str> = host.iter().flat_map(|host| ["--host", host.as_str()]).collect();
    words.extend(["image", "inspect", "--format", "{{.Id}}", &spec.tag]);
    let told = oxenv_process::run::run(program, &words, b"", INSPECT_TIMEOUT).await?;
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

/// The folder as a file without a name. It is whole before anything reads it, so that no half of a folder is
/// taken for all of it.
fn packed(spec: &BuildSpec) -> anyhow::Result<File> {
    let place = std::env::temp_dir().join(format!("oxenv-build-{}.tar", std::process::id()));
    let opened = File::options().read(true).write(true).create_new(true).open(&place);
    let mut file = opened.with_context(|| format!("cannot make {}", place.display()))?;
    std::fs::remove_file(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    spec.write_archive(&file).map_err(super::failed)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::is_needed;

    #[test]
    fn what_only_buildkit_knows() {
        for line in [
            "RUN --mount=type=cache,target=/root/.cache/uv \\",
            "run --network=none true",
            "COPY --chown=1:1 --link a b",
            "COPY <<EOF /etc/motd",
            "RUN cat <<-'END'",
        ] {
            assert!(is_needed(&format!("FROM scratch\n{line}\n")), "{line}");
        }
        for line in
            ["RUN pip install --no-cache-dir x", "COPY --from=b --chown=1 a b", "RUN echo $((1 << 2))"]
        {
            assert!(!is_needed(&format!("FROM --platform=linux/amd64 scratch\n{line}\n")), "{line}");
        }
    }
}
