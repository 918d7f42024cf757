//! [`RubricSpec`]: a rubric as a person declares it, in JSON or in TOML.
//!
//! Invariant: errors of a declaration are reported when it is read, with their place; only the
//! choice of judges is left to [`RubricSpec::compile`]. `docs/rubrics.md` documents every component.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::error::RubricError;
use super::reader::{Fields, nearest};
use super::{
    Combination, ComponentRubric, Constant, EnvironmentReward, EpisodeRubric, FinalState, FinalStateSource,
    Gate, Judge, JudgeAnswer, JudgeQuestion, JudgeRubric, JudgeTask, Judges, OutputMatches, Rubric,
    RubricFactory, ToolCalled, Trajectory,
};
use crate::failure::Failure;
use crate::work::Work;

/// The version of the form that is read here.
const VERSION: u64 = 1;
/// The judge that is asked where none is named.
const DEFAULT_JUDGE: &str = "default";
/// The longest name of a component.
const MAX_NAME: usize = 64;
/// Keys that any component may have.
const COMMON_KEYS: [&str; 2] = ["type", "name"];

/// The components, and the keys of each beside `type` and `name`.
const COMPONENTS: [(&str, &[&str]); 11] = [
    ("sequence", &["parts"]),
    ("gate", &["threshold", "part"]),
    ("weighted_sum", &["parts"]),
    ("sum", &["parts"]),
    ("trajectory", &["part", "intermediate", "gamma"]),
    ("tool_called", &["tool", "arguments", "at_least", "at_most"]),
    ("output_matches", &["tool", "schema"]),
    ("final_state", &["of", "schema", "contains"]),
    ("environment_reward", &[]),
    ("constant", &["value", "tool"]),
    ("judge", &["judge", "prompt", "instructions", "range", "when"]),
];

/// A declared rubric that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RubricSpec {
    declared: Value,
    judges: Vec<String>,
}

impl RubricSpec {
    /// Reads a declaration: `{"version": 1, "rubric": {"type": …}, "ends": {"type": …}}`, where `ends`
    /// may be left out.
    ///
    /// ```
    /// use oxenv_core::{Judges, RubricSpec};
    /// use serde_json::json;
    ///
    /// let declared = json!({ "version": 1, "rubric": { "type": "tool_called", "tool": "submit" } });
    /// let spec = RubricSpec::read(declared).unwrap();
    /// let factory = spec.compile(&Judges::default()).unwrap();
    /// let rubric = factory();
    ///
    /// let wrong = json!({ "version": 1, "rubric": { "type": "tools_called", "tool": "submit" } });
    /// assert!(RubricSpec::read(wrong).unwrap_err().to_string().contains("did you mean 'tool_called'?"));
    /// ```
    ///
    /// # Errors
    /// The first thing that is wrong: an unknown key or component, a schema that does not compile,
    /// weights that do not add up.
    pub fn read(declared: Value) -> Result<Self, RubricError> {
        let judges = RefCell::new(Vec::new());
        let note = |name: &str, _: &str| -> Result<Arc<dyn Judge>, RubricError> {
            let mut judges = judges.borrow_mut();
            if !judges.iter().any(|known| known == name) {
                judges.push(name.to_owned());
            }
            Ok(Arc::new(NoJudge))
        };
        Builder { judges: &Judges::default(), find: &note }.build_root(&declared)?;
        Ok(RubricSpec { declared, judges: judges.into_inner() })
    }

    /// The names of the judges that it asks.
    #[must_use]
    pub fn judges(&self) -> &[String] {
        &self.judges
    }

    /// Whether its scores may take time: whether it asks judges. For [`super::scored`].
    #[must_use]
    pub fn suspends(&self) -> bool {
        !self.judges.is_empty()
    }

    /// The declaration as it was read.
    #[must_use]
    pub fn declared(&self) -> &Value {
        &self.declared
    }

    /// Makes a factory of rubrics that ask these judges.
    ///
    /// # Errors
    /// When one of [`RubricSpec::judges`] is not among them.
    pub fn compile(&self, judges: &Judges) -> Result<RubricFactory, RubricError> {
        let find = |name: &str, place: &str| {
            judges.by_name.get(name).cloned().ok_or_else(|| {
                let known: Vec<&str> = judges.by_name.keys().map(String::as_str).collect();
                let hint =
                    if known.is_empty() { "; configure one".to_owned() } else { nearest(name, &known) };
                RubricError { place: place.to_owned(), problem: format!("no judge is called '{name}'{hint}") }
            })
        };
        let rubric = Builder { judges, find: &find }.build_root(&self.declared)?;
        // Compiled schemas are shared by all copies; only a lock lets threads share the original.
        let original = Mutex::new(rubric);
        Ok(Arc::new(move || original.lock().fork()))
    }
}

/// Finds a judge by its name, for the component at a place.
type Find<'a> = dyn Fn(&str, &str) -> Result<Arc<dyn Judge>, RubricError> + 'a;

struct Builder<'a> {
    judges: &'a Judges,
    find: &'a Find<'a>,
}

impl Builder<'_> {
    fn build_root(&self, declared: &Value) -> Result<Box<dyn Rubric>, RubricError> {
        let fields = Fields::open(declared, "")?;
        fields.only(&[&["version", "rubric", "ends"]])?;
        fields.value("version")?;
        if fields.optional_count("version")? != Some(VERSION) {
            return Err(fields.wrong("version", format!("only version {VERSION} is known here")));
        }
        let whole = EpisodeRubric::new(self.build_component(fields.value("rubric")?, "rubric", &[])?);
        Ok(Box::new(match fields.get("ends") {
            Some(ends) => whole.ending(self.build_component(ends, "ends", &[])?),
            None => whole,
        }))
    }

    /// A component; `extra` are the keys that belong to what it is a part of.
    fn build_component(
        &self,
        declared: &Value,
        place: &str,
        extra: &[&str],
    ) -> Result<ComponentRubric, RubricError> {
        let fields = Fields::open(declared, place)?;
        let kind = fields.text("type")?;
        let Some((_, keys)) = COMPONENTS.iter().find(|(name, _)| *name == kind) else {
            let names: Vec<&str> = COMPONENTS.iter().map(|(name, _)| *name).collect();
            let problem =
                format!("no component is called '{}'{}", kind.escape_debug(), nearest(kind, &names));
            return Err(fields.wrong("type", problem));
        };
        fields.only(&[&COMMON_KEYS, keys, extra])?;
        let name = fields.optional_text("name")?.unwrap_or(kind);
        if name.is_empty() || name.len() > MAX_NAME || name.contains('.') {
            let problem = format!("a name has 1 to {MAX_NAME} bytes, and no dot in it");
            return Err(fields.wrong("name", problem));
        }
        Ok(ComponentRubric::new(name, self.component(kind, &fields)?))
    }

    fn component(&self, kind: &str, fields: &Fields<'_>) -> Result<Box<dyn Rubric>, RubricError> {
        Ok(match kind {
            "sequence" => Box::new(Combination::sequence(self.parts(fields)?)),
            "gate" => Box::new(Gate::new(
                self.one_part(fields)?,
                fields.optional_number("threshold")?.unwrap_or(1.0),
            )),
            "weighted_sum" => Box::new(self.weighted_sum(fields)?),
            "sum" => Box::new(Combination::sum(self.parts(fields)?)),
            "trajectory" => Box::new(self.trajectory(fields)?),
            "tool_called" => Box::new(tool_called(fields)?),
            "output_matches" => Box::new(output_matches(fields)?),
            "final_state" => Box::new(final_state(fields)?),
            "environment_reward" => Box::new(EnvironmentReward),
            "constant" => Box::new(constant(fields)?),
            // The table has no other.
            _ => Box::new(self.judge(fields)?),
        })
    }

    fn one_part(&self, fields: &Fields<'_>) -> Result<ComponentRubric, RubricError> {
        self.build_component(fields.value("part")?, &fields.below("part"), &[])
    }

    fn parts(&self, fields: &Fields<'_>) -> Result<Vec<ComponentRubric>, RubricError> {
        self.parts_with(fields, &[])
    }

    fn parts_with(&self, fields: &Fields<'_>, extra: &[&str]) -> Result<Vec<ComponentRubric>, RubricError> {
        let mut parts: Vec<ComponentRubric> = Vec::new();
        let mut names = HashSet::new();
        for (index, declared) in fields.list("parts")?.iter().enumerate() {
            let place = format!("{}[{index}]", fields.below("parts"));
            let part = self.build_component(declared, &place, extra)?;
            if !names.insert(part.name().to_owned()) {
                let problem = format!("two parts are called '{}'; give one of them a 'name'", part.name());
                return Err(RubricError { place, problem });
            }
            parts.push(part);
        }
        Ok(parts)
    }

    fn weighted_sum(&self, fields: &Fields<'_>) -> Result<Combination, RubricError> {
        let parts = self.parts_with(fields, &["weight"])?;
        let mut weights = Vec::new();
        for (index, declared) in fields.list("parts")?.iter().enumerate() {
            let part = Fields::open(declared, &format!("{}[{index}]", fields.below("parts")))?;
            weights.push(part.number("weight")?);
        }
        Combination::weighted_sum(weights.into_iter().zip(parts).collect())
            .map_err(|problem| fields.wrong("parts", problem))
    }

    fn trajectory(&self, fields: &Fields<'_>) -> Result<Trajectory, RubricError> {
        let trajectory =
            Trajectory::new(self.one_part(fields)?).intermediate(fields.optional_reward("intermediate")?);
        match fields.optional_number("gamma")? {
            Some(gamma) => trajectory.discounted(gamma).map_err(|problem| fields.wrong("gamma", problem)),
            None => Ok(trajectory),
        }
    }

    fn judge(&self, fields: &Fields<'_>) -> Result<JudgeRubric, RubricError> {
        let name = fields.optional_text("judge")?.unwrap_or(DEFAULT_JUDGE);
        let task = JudgeTask {
            prompt: fields.text("prompt")?.to_owned(),
            instructions: fields.optional_text("instructions")?.map(str::to_owned),
            range: range(fields)?,
            every_act: match fields.optional_text("when")? {
                None | Some("end") => false,
                Some("every_act") => true,
                Some(_) => return Err(fields.wrong("when", "must be 'end' or 'every_act'".to_owned())),
            },
        };
        let judge = (self.find)(name, &fields.below("judge"))?;
        JudgeRubric::new(judge, Arc::clone(&self.judges.cache), &task).map_err(|problem| {
            let key = if problem.starts_with("the range") { "range" } else { "prompt" };
            fields.wrong(key, problem)
        })
    }
}

fn range(fields: &Fields<'_>) -> Result<(f64, f64), RubricError> {
    let Some(range) = fields.get("range") else { return Ok((0.0, 1.0)) };
    match range.as_array().map(Vec::as_slice) {
        Some([least, most]) => least.as_f64().zip(most.as_f64()),
        _ => None,
    }
    .ok_or_else(|| fields.wrong("range", "must be two numbers: [0, 1]".to_owned()))
}

fn tool_called(fields: &Fields<'_>) -> Result<ToolCalled, RubricError> {
    let mut called =
        ToolCalled::new(fields.text("tool")?).map_err(|problem| fields.wrong("tool", problem))?;
    if let Some(schema) = fields.get("arguments") {
        called = called.with_arguments(schema).map_err(|problem| fields.wrong("arguments", problem))?;
    }
    let (at_least, at_most) = (fields.optional_count("at_least")?, fields.optional_count("at_most")?);
    // An upper limit of 0 alone means never.
    let at_least = at_least.unwrap_or(u64::from(at_most != Some(0)));
    if at_most.is_some_and(|most| most < at_least) {
        return Err(fields.wrong("at_most", format!("must be {at_least} or more, as 'at_least' is")));
    }
    Ok(called.times(at_least, at_most))
}

fn output_matches(fields: &Fields<'_>) -> Result<OutputMatches, RubricError> {
    let schema = fields.value("schema")?;
    // A wrong pattern is reported as such, whatever the schema is.
    let tool = fields.optional_text("tool")?;
    if let Some(tool) = tool {
        ToolCalled::new(tool).map_err(|problem| fields.wrong("tool", problem))?;
    }
    match tool {
        Some(tool) => OutputMatches::of_tool(tool, schema),
        None => OutputMatches::of_observation(schema),
    }
    .map_err(|problem| fields.wrong("schema", problem))
}

fn final_state(fields: &Fields<'_>) -> Result<FinalState, RubricError> {
    let of = match fields.optional_text("of")? {
        None | Some("state") => FinalStateSource::State,
        Some("observation") => FinalStateSource::Observation,
        Some(_) => return Err(fields.wrong("of", "must be 'state' or 'observation'".to_owned())),
    };
    match (fields.get("schema"), fields.get("contains")) {
        (Some(schema), None) => {
            FinalState::fitting(of, schema).map_err(|problem| fields.wrong("schema", problem))
        }
        (None, Some(part)) => Ok(FinalState::containing(of, part.clone())),
        _ => Err(fields.wrong("schema", "give either 'schema' or 'contains'".to_owned())),
    }
}

fn constant(fields: &Fields<'_>) -> Result<Constant, RubricError> {
    fields.value("value")?;
    let value = fields.optional_reward("value")?.unwrap_or(oxenv_wire::Reward::Int(0));
    let constant = Constant::new(value);
    match fields.optional_text("tool")? {
        Some(tool) => constant.for_tool(tool).map_err(|problem| fields.wrong("tool", problem)),
        None => Ok(constant),
    }
}

/// Stands in a judge's place while a declaration is read.
struct NoJudge;

impl Judge for NoJudge {
    fn identity(&self) -> &str {
        "nobody"
    }

    fn ask(&self, _question: JudgeQuestion) -> Work<'_, Result<JudgeAnswer, Failure>> {
        Work::done(Err(Failure::infrastructure("this rubric was read, but not compiled")))
    }
}
