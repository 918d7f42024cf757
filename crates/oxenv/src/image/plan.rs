//! How an environment's folder becomes an image: its own build file, or one that is made for what is in it.
//!
//! Invariant: a manifest that cannot be served is not built, and a file that it takes for a secret is not
//! packed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oxenv_providers::docker::DockerIgnore;
use oxenv_upstream::manifest::{Manifest, Problem, Transport};

use crate::assemble::builtin_names;
use crate::exit::usage;
use crate::hosted::{self, PythonEnvironment};
use crate::requirements::{PLACES, Requirements};

/// The image of the command alone.
const COMMAND_IMAGE: &str = "oxenv:latest";
/// The image with Node and Python beside it.
const TOOLS_IMAGE: &str = "oxenv-tools:latest";
/// The servers that [`TOOLS_IMAGE`] has.
const INSTALLED_SERVERS: [&str; 2] =
    ["@modelcontextprotocol/server-filesystem", "@modelcontextprotocol/server-github"];
/// Variables that every container has, or that carry no information.
const COMMON_VARIABLES: [&str; 4] = ["PATH", "HOME", "TMPDIR", "LANG"];

/// What an image is built by.
pub(super) enum BuildPlan {
    /// A file of the folder.
    File { file: PathBuf, notes: Vec<String> },
    /// A file that was made.
    Made { base: String, text: String, notes: Vec<String> },
}

impl BuildPlan {
    /// Notes for the user.
    pub(super) fn notes(&self) -> &[String] {
        let (BuildPlan::File { notes, .. } | BuildPlan::Made { notes, .. }) = self;
        notes
    }
}

/// Finds what the folder is built by, and judges its manifest if a build file has to be made.
pub(super) fn find(folder: &Path, base: Option<&str>) -> anyhow::Result<BuildPlan> {
    // In the order of `openenv build`.
    let own = ["server/Dockerfile", "Dockerfile"].into_iter().find(|file| folder.join(file).is_file());
    let has = |name: &str| folder.join(name).is_file();
    match own {
        Some(file) if base.is_none() => own_file(folder, file.into()),
        _ if has("tools.yaml") && !has("openenv.yaml") => tools(folder, base),
        _ => match (hosted::in_folder(folder)?, own) {
            (Some(environment), _) => python(folder, &environment, base),
            (None, Some(file)) => {
                Err(usage(format!("{file} says what the image begins with: leave out --base")))
            }
            (None, None) => Err(usage(format!(
                "{} has no tools.yaml, openenv.yaml, server/app.py or Dockerfile",
                folder.display()
            ))),
        },
    }
}

/// A folder with a build file, which takes what it wants of the folder.
pub(super) fn own_file(folder: &Path, file: PathBuf) -> anyhow::Result<BuildPlan> {
    let has_manifest = folder.join("tools.yaml").is_file();
    let notes = if has_manifest { CheckedManifest::of(folder)?.notes } else { Vec::new() };
    Ok(BuildPlan::File { file, notes })
}

/// A folder with a manifest, which is served as an environment of tools.
fn tools(folder: &Path, base: Option<&str>) -> anyhow::Result<BuildPlan> {
    let ignored = ignored(folder)?;
    let (manifest, notes) = CheckedManifest::of(folder)?.packed(folder, &ignored)?;
    let enabled = || manifest.toolsets.iter().filter(|entry| entry.enabled);
    let runs =
        |transport: &Transport| matches!(transport, Transport::Stdio { .. } | Transport::Python { .. });
    let usual = if enabled().any(|entry| runs(&entry.transport)) { TOOLS_IMAGE } else { COMMAND_IMAGE };
    let chosen = base.unwrap_or(usual);
    let mut lines = vec![format!("FROM {chosen}")];
    // The content of a custom base image is not known here.
    if chosen == TOOLS_IMAGE {
        let packages = npm_install(&manifest);
        let requirements = folder.join("requirements.txt").is_file() && !ignored.excludes("requirements.txt");
        if requirements || packages.is_some() {
            lines.push("USER 0".to_owned());
            lines.extend(packages);
            if requirements {
                lines.push("COPY requirements.txt /app/requirements.txt".to_owned());
                lines.push(format!("RUN {}", exec(pip(&["-r", "/app/requirements.txt"]))));
            }
            lines.push("USER 65532:65532".to_owned());
        }
    }
    lines.push("COPY . /app".to_owned());
    lines.push(format!("CMD {}", exec(["serve", "/app", "--host", "0.0.0.0", "--open"])));
    Ok(made(chosen, &lines, notes))
}

/// A folder with a Python environment, which is served as `oxenv serve DIR` does.
fn python(folder: &Path, environment: &PythonEnvironment, base: Option<&str>) -> anyhow::Result<BuildPlan> {
    let shown = folder.display();
    if !hosted::has_application(environment) {
        let wanted = "expected a line such as 'app: server.app:app' in openenv.yaml, or server/app.py";
        return Err(usage(format!("{shown} names no application: {wanted}")));
    }
    let ignored = ignored(folder)?;
    let requirements = Requirements::of(folder, &|file| ignored.excludes(file))?.ok_or_else(|| {
        let wanted = format!("looked for {PLACES}; add one, with openenv at least, or a Dockerfile");
        usage(format!("{shown} does not say what to install: {wanted}"))
    })?;
    let base = base.unwrap_or(TOOLS_IMAGE);
    let (mut packages, mut notes) = (None, Vec::new());
    if folder.join("tools.yaml").is_file() {
        let checked = CheckedManifest::of(folder)?.packed(folder, &ignored)?;
        packages = npm_install(&checked.0).filter(|_| base == TOOLS_IMAGE);
        notes = checked.1;
    }
    // Modules import each other by the folder's name, and an environment without a name is called so.
    let place = format!("/app/{}", super::plain_name(folder)?);
    let mut lines = vec![format!("FROM {base}"), "USER 0".to_owned(), format!("WORKDIR {place}")];
    lines.extend(packages);
    // Before the rest, where that can be: what is installed is then kept when only code has changed.
    let lists = requirements.files.iter().filter(|file| file.ends_with(".txt"));
    match requirements.needs_folder {
        true => lines.push("COPY . ./".to_owned()),
        false => lines.extend(lists.map(|file| format!("COPY {file} ./{file}"))),
    }
    if !requirements.arguments.is_empty() {
        let words: Vec<&str> = requirements.arguments.iter().map(String::as_str).collect();
        lines.push(format!("RUN {}", exec(pip(&words))));
    }
    if !requirements.needs_folder {
        lines.push("COPY . ./".to_owned());
    }
    lines.push("USER 65532:65532".to_owned());
    lines.push("WORKDIR /workspace".to_owned());
    lines.push(format!("ENTRYPOINT {}", exec(["oxenv"])));
    lines.push(format!("CMD {}", exec(["serve", &place, "--host", "0.0.0.0", "--open"])));
    Ok(made(base, &lines, notes))
}

fn made(base: &str, lines: &[String], notes: Vec<String>) -> BuildPlan {
    let text = format!("# Made by oxenv build.\n{}\n", lines.join("\n"));
    BuildPlan::Made { base: base.to_owned(), text, notes }
}

/// A manifest that can be served.
struct CheckedManifest {
    manifest: Manifest,
    /// The files that it reads as secrets.
    files: Vec<String>,
    notes: Vec<String>,
}

impl CheckedManifest {
    /// Reads the manifest as a container will read it: with variables that are not set yet.
    fn of(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("tools.yaml");
        let refused = |problems: &[Problem]| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            usage(format!("no image is built of what cannot be served:\n{}", lines.join("\n")))
        };
        let bytes = Manifest::read(&path)
            .map_err(|error| usage(format!("cannot read {}: {error}", path.display())))?;
        let (text, files) = without_files(&String::from_utf8_lossy(&bytes));
        let variables = RefCell::new(BTreeSet::new());
        let lookup = |name: &str| {
            variables.borrow_mut().insert(name.to_owned());
            Some("unset".to_owned())
        };
        let (manifest, warnings) = Manifest::parse_bytes(text.as_bytes(), Some(&path), &lookup)
            .map_err(|problems| refused(&problems))?;
        let unknown = manifest.unknown_builtins(&builtin_names());
        if !unknown.is_empty() {
            return Err(refused(&unknown));
        }
        if let Some(outside) = file_outside(&manifest, folder) {
            let folder = folder.display();
            return Err(usage(format!("{outside} is not in {folder}, so it would not be in the image")));
        }
        let mut notes: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        // Those with a default are optional.
        let is_needed = |name: &&String| {
            let is_own = !COMMON_VARIABLES.contains(&name.as_str()) && name.bytes().any(|byte| byte != b'_');
            is_own && text.contains(&format!("${{{name}}}"))
        };
        let variables = variables.into_inner();
        let needed: Vec<&str> = variables.iter().filter(is_needed).map(String::as_str).collect();
        if !needed.is_empty() {
            notes.push(format!("a container is to be given {}", needed.join(", ")));
        }
        if !files.is_empty() {
            notes.push(format!("a container is to see the files {}", files.join(", ")));
        }
        Ok(CheckedManifest { manifest, files, notes })
    }

    /// Refuses what would put a secret into the image, or leave the manifest out.
    fn packed(self, folder: &Path, ignored: &DockerIgnore) -> anyhow::Result<(Manifest, Vec<String>)> {
        if ignored.excludes("tools.yaml") {
            return Err(usage(format!("{} lists tools.yaml", folder.join(".dockerignore").display())));
        }
        let goes_in = |file: &&String| {
            Path::new(file).is_relative() && folder.join(file).exists() && !ignored.excludes(file)
        };
        match self.files.iter().find(goes_in) {
            Some(file) => Err(usage(format!(
                "{file} is a secret of tools.yaml and would be in the image: \
                 list it in .dockerignore and mount it"
            ))),
            None => Ok((self.manifest, self.notes)),
        }
    }
}

/// A Python file of the manifest that is somewhere else.
fn file_outside(manifest: &Manifest, folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    manifest.toolsets.iter().find_map(|entry| match &entry.transport {
        Transport::Python { path, .. } => {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            (!real.starts_with(&folder)).then(|| path.display().to_string())
        }
        _ => None,
    })
}

/// A manifest's text with a variable of the same length for each `${file:PATH}`, which is not here yet, and
/// the paths.
fn without_files(text: &str) -> (String, Vec<String>) {
    const FILE_REFERENCE: &str = "${file:";
    let (mut changed, mut files, mut rest) = (String::new(), Vec::new(), text);
    while let Some(start) = rest.find(FILE_REFERENCE) {
        let Some(length) = rest[start..].find('}') else { break };
        files.push(rest[start + FILE_REFERENCE.len()..start + length].to_owned());
        let characters = rest[start + 2..start + length].chars().count();
        changed.push_str(&rest[..start]);
        changed.push_str(&format!("${{{}}}", "_".repeat(characters)));
        rest = &rest[start + length + 1..];
    }
    changed.push_str(rest);
    (changed, files)
}

/// The line that installs what `npx` would fetch, if there is something.
fn npm_install(manifest: &Manifest) -> Option<String> {
    let enabled = manifest.toolsets.iter().filter(|entry| entry.enabled);
    let packages: BTreeSet<String> = enabled.filter_map(|entry| npx_package(&entry.transport)).collect();
    let install = ["npm", "install", "--prefix", "/opt/tools", "--no-audit", "--no-fund"];
    let words = install.into_iter().chain(packages.iter().map(String::as_str));
    (!packages.is_empty()).then(|| format!("RUN {}", exec(words)))
}

/// The package that `npx` would fetch, if it can be there already.
fn npx_package(transport: &Transport) -> Option<String> {
    let Transport::Stdio { command, args, .. } = transport else { return None };
    let plain = |text: &oxenv_upstream::manifest::Text| {
        (text.secrets().next().is_none())
            .then(|| text.resolve(Path::new("/workspace"), 0).expose().to_owned())
    };
    if plain(command)? != "npx" {
        return None;
    }
    let words: Option<Vec<String>> = args.iter().map(plain).collect();
    let package = words?.into_iter().find(|word| !word.is_empty() && !word.starts_with('-'))?;
    // Whether `latest` or a range has a newer version, npx asks the registry anyway.
    let name = package.strip_prefix('@').unwrap_or(&package);
    let version = name.split_once('@').map(|(_, version)| version);
    let is_fixed = version.is_none_or(|version| version.starts_with(|first: char| first.is_ascii_digit()));
    (is_fixed && !INSTALLED_SERVERS.contains(&package.as_str())).then_some(package)
}

fn pip<'a>(what: &[&'a str]) -> Vec<&'a str> {
    let install = ["python3", "-m", "pip", "install", "--no-cache-dir", "--break-system-packages"];
    install.into_iter().chain(what.iter().copied()).collect()
}

/// A command without a shell, as build files have it.
fn exec<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    serde_json::json!(words).to_string()
}

fn ignored(folder: &Path) -> anyhow::Result<DockerIgnore> {
    DockerIgnore::read(folder)
        .map_err(|error| usage(format!("cannot read {}/.dockerignore: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, which is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn with(files: &[(&str, &str)]) -> Self {
            let folder = std::env::temp_dir().join(format!("oxenv-recipe-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(folder.join("server")).unwrap();
            for (name, text) in files {
                std::fs::write(folder.join(name), text).unwrap();
            }
            Folder(folder)
        }

        fn made(&self, base: Option<&str>) -> (String, Vec<String>) {
            match find(&self.0, base).unwrap() {
                BuildPlan::Made { text, notes, .. } => (text, notes),
                BuildPlan::File { file, .. } => panic!("built by {}", file.display()),
            }
        }

        fn refused(&self) -> String {
            find(&self.0, None).err().unwrap().to_string()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn stdio(server: &str) -> String {
        format!("tools:\n  - name: one\n    mcp_server:\n      {server}\n")
    }

    #[test]
    fn the_base_is_what_the_manifest_needs() {
        let served = "COPY . /app\nCMD [\"serve\",\"/app\",\"--host\",\"0.0.0.0\",\"--open\"]\n";
        let remote = Folder::with(&[("tools.yaml", &stdio("url: http://there:1/mcp"))]);
        assert_eq!(remote.made(None).0, format!("# Made by oxenv build.\nFROM oxenv:latest\n{served}"));
        drop(remote);
        let rfc =
            r#"{ command: npx, args: ["-y", "@modelcontextprotocol/server-filesystem", "/workspace"] }"#;
        let local =
            Folder::with(&[("tools.yaml", &stdio(rfc).replace("mcp_server:\n      ", "mcp_server: "))]);
        assert_eq!(local.made(None).0, format!("# Made by oxenv build.\nFROM oxenv-tools:latest\n{served}"));
        assert_eq!(local.made(Some("mine:1")).0, format!("# Made by oxenv build.\nFROM mine:1\n{served}"));
    }

    #[test]
    fn what_a_server_is_made_of_is_installed_when_it_is_built() {
        let tools = "command: npx\n      args: [\"-y\", \"@scope/server@1.2.3\"]";
        let folder = Folder::with(&[("tools.yaml", &stdio(tools)), ("requirements.txt", "mcp")]);
        let (text, notes) = folder.made(None);
        let npm =
            r#"RUN ["npm","install","--prefix","/opt/tools","--no-audit","--no-fund","@scope/server@1.2.3"]"#;
        assert!(text.contains(npm), "{text}");
        assert!(text.contains(r#""-r","/app/requirements.txt"]"#) && text.contains("\nUSER 65532"), "{text}");
        assert_eq!(notes, [""; 0]);
        drop(folder);
        // Whatever stands where a package should.
        for (args, installed) in
            [("[\"\"]", false), ("[\"é@1\"]", true), ("[\"@\"]", true), ("[\"a@latest\"]", false)]
        {
            let tools = stdio(&format!("command: npx\n      args: {args}"));
            let folder = Folder::with(&[("tools.yaml", &tools)]);
            assert_eq!(folder.made(None).0.contains("npm"), installed, "{args}");
        }
    }

    #[test]
    fn secrets_are_named_and_stay_out() {
        let server = "command: tool\n      \
                      env: { A: \"${TOKEN}\", B: \"${PORT:-1}\", C: \"${file:/run/secrets/key}\" }";
        let outside = Folder::with(&[("tools.yaml", &stdio(server))]);
        let notes = outside.made(None).1;
        let wanted = ["a container is to be given TOKEN", "a container is to see the files /run/secrets/key"];
        assert!(wanted.iter().all(|note| notes.iter().any(|said| said == note)), "{notes:?}");
        drop(outside);
        let server = "command: tool\n      env: { A: \"${file:token}\" }";
        let inside = Folder::with(&[("tools.yaml", &stdio(server)), ("token", "hush-hush")]);
        assert!(inside.refused().starts_with("token is a secret of tools.yaml and would be in the image"));
        std::fs::write(inside.0.join(".dockerignore"), "token\n").unwrap();
        assert!(inside.made(None).0.contains("oxenv-tools"));
    }

    #[test]
    fn a_python_environment_is_served_under_the_name_of_its_folder() {
        let manifest = "spec_version: 1\napp: \"server.app:app\" # the application\n";
        let project = "[project]\ndependencies = [\"openenv>=0.2\"]\n";
        let folder = Folder::with(&[
            ("openenv.yaml", manifest),
            ("pyproject.toml", project),
            ("server/requirements.txt", "chess"),
        ]);
        let name = folder.0.file_name().unwrap().to_str().unwrap();
        let install = r#""--break-system-packages","openenv>=0.2","-r","server/requirements.txt"]"#;
        let (text, _) = folder.made(None);
        let order = [
            &format!("FROM oxenv-tools:latest\nUSER 0\nWORKDIR /app/{name}\n"),
            "COPY server/requirements.txt ./server/requirements.txt\nRUN [",
            install,
            "\nCOPY . ./\nUSER 65532:65532\nWORKDIR /workspace\nENTRYPOINT [\"oxenv\"]\n",
            &format!(r#"CMD ["serve","/app/{name}","--host","0.0.0.0","--open"]"#),
        ];
        let places: Vec<usize> = order.iter().map(|part| text.find(part).expect(&text)).collect();
        assert!(places.is_sorted(), "{text}");
        // What installs the folder itself needs all of it.
        std::fs::write(folder.0.join("pyproject.toml"), "[project]\ndynamic = [\"dependencies\"]\n").unwrap();
        let (text, _) = folder.made(None);
        assert!(text.find("COPY . ./\nRUN [").is_some() && text.contains(r#"packages",".","-r""#), "{text}");
        std::fs::write(folder.0.join("Dockerfile"), "FROM scratch").unwrap();
        std::fs::write(folder.0.join("server/Dockerfile"), "FROM scratch").unwrap();
        assert!(matches!(
            find(&folder.0, None).unwrap(),
            BuildPlan::File { file, .. } if file.ends_with("server/Dockerfile")
        ));
    }

    #[test]
    fn tools_beside_a_python_environment_are_checked_and_installed() {
        let tools = stdio("command: npx\n      args: [\"-y\", \"@scope/server@1.2.3\"]");
        let files =
            [("server/app.py", ""), ("openenv.yaml", "name: mine\n"), ("requirements.txt", "openenv")];
        let folder = Folder::with(&files);
        std::fs::write(folder.0.join("tools.yaml"), tools).unwrap();
        let (text, _) = folder.made(None);
        assert!(
            text.contains(r#"RUN ["npm","install""#) && text.contains("COPY requirements.txt "),
            "{text}"
        );
        std::fs::write(folder.0.join("tools.yaml"), "tools:\n  - name: one\n    nonsense: 1\n").unwrap();
        assert!(folder.refused().contains("nonsense"), "{}", folder.refused());
    }

    #[test]
    fn what_cannot_be_served_is_not_built() {
        let folder = Folder::with(&[("tools.yaml", "tools:\n  - name: one\n    nonsense: 1\n")]);
        assert!(folder.refused().contains("nonsense"), "{}", folder.refused());
        // A build file of one's own does not make it servable.
        std::fs::write(folder.0.join("Dockerfile"), "FROM scratch").unwrap();
        assert!(folder.refused().contains("nonsense"), "{}", folder.refused());
        drop(folder);
        assert!(Folder::with(&[]).refused().ends_with("openenv.yaml, server/app.py or Dockerfile"));
        assert!(Folder::with(&[("openenv.yaml", "name: x\n")]).refused().contains("names no application"));
        let bare = Folder::with(&[("server/app.py", "")]);
        assert!(bare.refused().contains("does not say what to install: looked for [project] of"));
    }
}
