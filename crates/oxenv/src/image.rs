//! `oxenv build`: an image of an environment's folder.
//!
//! Invariant: what goes into the image is in the folder or named by it; nothing of this machine does.

mod buildkit;
mod plan;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use oxenv_providers::docker::{BuildSpec, DockerProvider};
use oxenv_providers::{ProviderCode, ProviderError};

use crate::env;
use crate::exit::{Problem, usage};
use crate::output::print;
use plan::BuildPlan;

/// What to build.
#[derive(Args)]
#[command(after_help = "\
A folder with a Dockerfile (or server/Dockerfile) is built by that. For another, a build file is
generated: --print shows it. Files that .dockerignore lists are left out, and so are .env, .git,
keys and the like.

Examples:
  oxenv build my_env                        makes my_env:latest
  oxenv build my_env --print                the build file that is used
  oxenv build my_env --tag games/chess:1 --base registry.example/oxenv-tools:1")]
pub(crate) struct BuildArgs {
    /// The folder of the environment
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// The image's name [default: the folder's, in lower case]
    #[arg(short = 't', long = "tag", value_name = "NAME")]
    tag: Option<String>,

    /// The image that the build file begins with, which has oxenv and what the tools need
    /// [default: oxenv-tools:latest if tools are started by commands or Python, else oxenv:latest]
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,

    /// The build file, relative to DIR
    #[arg(short, long, value_name = "FILE", conflicts_with = "base")]
    file: Option<PathBuf>,

    /// An argument of the build file, NAME=VALUE (may be repeated); it can be read from the image
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = assignment)]
    args: Vec<(String, String)>,

    /// The network of the build's commands, such as host or none
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// Print the build file and build nothing
    #[arg(long)]
    print: bool,
}

pub(crate) async fn run(args: &BuildArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    if !folder.is_dir() {
        return Err(usage(format!("{} is no folder", folder.display())));
    }
    let recipe = match &args.file {
        Some(file) => plan::own_file(folder, file.clone())?,
        None => plan::find(folder, args.base.as_deref())?,
    };
    recipe.notes().iter().for_each(|note| report_line(&format!("note: {note}")));
    if args.print {
        return print(text(folder, &recipe)?.trim_end());
    }
    let tag = match &args.tag {
        Some(tag) => tag.clone(),
        None => image_name(&plain_name(folder)?)
            .ok_or_else(|| usage(format!("{} makes no name of an image; give --tag", folder.display())))?,
    };
    let provider = DockerProvider::connect(env::docker_host().as_deref()).await.map_err(failed)?;
    let mut spec = BuildSpec {
        folder: folder.clone(),
        tag: tag.clone(),
        args: args.args.clone(),
        network: args.network.clone(),
        ..BuildSpec::default()
    };
    match &recipe {
        BuildPlan::File { file, .. } => spec.file = Some(file.clone()),
        BuildPlan::Made { text, .. } => spec.text = Some(text.clone()),
    }
    let built = match &spec.file {
        Some(file) if buildkit::is_needed(&text(folder, &recipe)?) => buildkit::build(&spec, file).await?,
        _ => {
            let built = provider.build(&spec, &mut report_line).await;
            built.map_err(|error| failed(with_hint(error, &recipe)))?
        }
    };
    print(&format!("{tag} is {built}"))
}

/// The text of the build file.
fn text(folder: &Path, recipe: &BuildPlan) -> anyhow::Result<String> {
    match recipe {
        BuildPlan::Made { text, .. } => Ok(text.clone()),
        BuildPlan::File { file, .. } => {
            let file = folder.join(file);
            std::fs::read_to_string(&file)
                .map_err(|error| usage(format!("cannot read {}: {error}", file.display())))
        }
    }
}

/// Explains what to do if the image that the build file begins with does not exist.
fn with_hint(mut error: ProviderError, recipe: &BuildPlan) -> ProviderError {
    if let BuildPlan::Made { base, .. } = recipe
        && error.message.contains("Step 1/")
    {
        let hint = format!(
            "; is there an image {base}? Build it from images/ of oxenv, or name another with --base"
        );
        error.message.push_str(&hint);
    }
    error
}

/// The name of a folder, wherever it is named from, without characters that a build file would have to quote.
fn plain_name(folder: &Path) -> anyhow::Result<String> {
    let folder =
        folder.canonicalize().map_err(|error| usage(format!("cannot read {}: {error}", folder.display())))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let is_plain = |part: char| part.is_ascii_alphanumeric() || "._-".contains(part);
    Ok(name.chars().map(|part| if is_plain(part) { part } else { '_' }).collect())
}

/// A name as images have it: lower case, with one separator between its words.
fn image_name(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let words = name.split_inclusive(['.', '_', '-']);
    let joined: String = words.filter(|word| word.starts_with(char::is_alphanumeric)).collect();
    let joined = joined.trim_end_matches(['.', '_', '-']);
    (!joined.is_empty()).then(|| joined.to_owned())
}

fn failed(error: ProviderError) -> anyhow::Error {
    match error.code {
        ProviderCode::InvalidSpec => usage(error.to_string()),
        ProviderCode::ProviderUnavailable => Problem::Unreachable(error.to_string()).into(),
        _ => anyhow!(error),
    }
}

fn report_line(line: &str) {
    // There is no reader when stderr is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_its_image() {
        let names = [
            ("chess_env", Some("chess_env")),
            ("My.Env-2", Some("my.env-2")),
            ("_a__b_-c_", Some("a_b_c")),
            ("7", Some("7")),
            ("___", None),
            ("", None),
        ];
        for (folder, image) in names {
            assert_eq!(image_name(folder).as_deref(), image, "{folder}");
        }
    }
}
