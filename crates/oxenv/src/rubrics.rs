//! `--rubric`: a declared rubric over whatever is served, replayed or rescored, and the judge it asks.
//!
//! Invariant: errors of a rubric's file are reported before anything runs; the judge's key comes from the
//! environment alone and is never shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use oxenv_core::rubric::{Judge, JudgeAnswer, JudgeCache, JudgeQuestion, Judges, RubricSpec, scored};
use oxenv_core::{EnvironmentFactory, Failure, RubricFactory, Work};
use oxenv_server::{HttpJudge, HttpJudgeOptions, JudgeKey};
use serde::Deserialize;

use crate::env;
use crate::exit::usage;

/// Which rubric, and which judge.
#[derive(Args, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RubricArgs {
    /// Score steps and tool calls by the rubric in this file, JSON or TOML; see docs/rubrics.md
    #[arg(long, value_name = "FILE")]
    pub(crate) rubric: Option<PathBuf>,

    /// The OpenAI-compatible endpoint that the rubric's judges are asked at, such as
    /// http://127.0.0.1:8001/v1; its key is read from OXENV_JUDGE_KEY
    #[arg(long, value_name = "URL")]
    pub(crate) judge_url: Option<String>,

    /// The model to ask
    #[arg(long, value_name = "MODEL")]
    pub(crate) judge_model: Option<String>,

    /// Whether the judge may be asked; else what it said before is all there is.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) only_recorded: bool,
}

/// The environment with the rubric over it, if one was named.
///
/// # Errors
/// When the rubric or the judge cannot be used.
pub(crate) fn over(
    factory: Arc<dyn EnvironmentFactory>,
    args: &RubricArgs,
    cache: &Arc<JudgeCache>,
) -> anyhow::Result<Arc<dyn EnvironmentFactory>> {
    let Some(path) = &args.rubric else { return Ok(factory) };
    let spec = read(path)?;
    let rubric = compile(path, &spec, args, cache)?;
    Ok(scored(factory, rubric, spec.suspends()))
}

/// The rubric that was named.
///
/// # Errors
/// When none was, or it cannot be used.
pub(crate) fn named(args: &RubricArgs, cache: &Arc<JudgeCache>) -> anyhow::Result<RubricFactory> {
    let path = args.rubric.as_ref().ok_or_else(|| usage("no rubric is named: add --rubric FILE"))?;
    compile(path, &read(path)?, args, cache)
}

fn read(path: &Path) -> anyhow::Result<RubricSpec> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| usage(format!("cannot read the rubric {shown}: {error}")))?;
    let toml = path.extension().is_some_and(|extension| extension == "toml");
    let declared = match toml {
        true => toml::from_str(&text).map_err(|error| error.to_string()),
        false => serde_json::from_str(&text).map_err(|error| error.to_string()),
    };
    let declared = declared.map_err(|error| usage(format!("{shown}: {error}")))?;
    RubricSpec::read(declared).map_err(|error| usage(format!("{shown}: {error}")))
}

fn compile(
    path: &Path,
    spec: &RubricSpec,
    args: &RubricArgs,
    cache: &Arc<JudgeCache>,
) -> anyhow::Result<RubricFactory> {
    let mut judges = Judges { cache: Arc::clone(cache), ..Judges::default() };
    if spec.suspends() {
        let judge = judge(args)?;
        judges.by_name.extend(spec.judges().iter().map(|name| (name.clone(), Arc::clone(&judge))));
    }
    spec.compile(&judges).map_err(|error| usage(format!("{}: {error}", path.display())))
}

/// The judge: one endpoint and one model for whatever name a rubric calls it by.
fn judge(args: &RubricArgs) -> anyhow::Result<Arc<dyn Judge>> {
    let (Some(url), Some(model)) = (&args.judge_url, &args.judge_model) else {
        return Err(usage("the rubric asks a judge: name it with --judge-url URL and --judge-model MODEL"));
    };
    let key = env::nonempty("OXENV_JUDGE_KEY").map(JudgeKey::new);
    let options = HttpJudgeOptions { key, ..HttpJudgeOptions::new(url.as_str(), model.as_str()) };
    let judge = HttpJudge::new(options).map_err(usage)?;
    Ok(match args.only_recorded {
        true => Arc::new(UnaskedJudge(judge)),
        false => Arc::new(judge),
    })
}

/// A judge that is not asked any more: its earlier answers are in the cache.
struct UnaskedJudge(HttpJudge);

impl Judge for UnaskedJudge {
    fn identity(&self) -> &str {
        self.0.identity()
    }

    fn ask(&self, _question: JudgeQuestion) -> Work<'_, Result<JudgeAnswer, Failure>> {
        let message = "the record has no answer of this judge to this question";
        Work::done(Err(Failure::infrastructure(message)))
    }
}
