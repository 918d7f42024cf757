//! Rules of forks and snapshots, for engines that are able to make them.

use oxenv_core::{CodeAbilities, CodeContext, CodeLimits, Interpreter};
use oxenv_wire::ErrorCode;

use serde_json::value::RawValue;

use super::{Expected, SEED, Suite};

/// What a copy has to go on with.
const SETUP: &str =
    "import json\nx = [1, {'a': (2, 'é')}]\ny = x[1]\ndef f(n):\n    return n + len(x)\nr = random()";
/// What shows it.
const LOOK: &str = "y['b'] = 3\n[f(1), json.dumps(x), r != random(), add(1, 2)]";
const VALUE: &str = "[3,\"[1, {\\\"a\\\": [2, \\\"\\\\u00e9\\\"], \\\"b\\\": 3}]\",true,3]";

impl Suite {
    pub(super) async fn copies(&mut self) {
        let CodeAbilities { fork, snapshot } = self.engine.abilities();
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let rule = "an interpreter is prepared for copies";
        self.shows(rule, interpreter.as_mut(), SETUP, Expected::default()).await;
        if fork {
            self.forks(interpreter.as_mut()).await;
        } else {
            let refused = interpreter.fork().await.err().map(|failure| failure.code);
            self.refuses("an engine that does not fork says so", refused);
        }
        if snapshot {
            self.snapshots(interpreter.as_mut()).await;
        } else {
            let refused = interpreter.snapshot(u64::MAX).await.err().map(|failure| failure.code);
            self.refuses("an engine that saves nothing says so", refused);
        }
    }

    fn refuses(&mut self, rule: &'static str, code: Option<ErrorCode>) {
        self.require(rule, code == Some(ErrorCode::Unsupported), || format!("{code:?}"));
    }

    async fn forks(&mut self, original: &mut dyn Interpreter) {
        let rule = "a fork has the variables and goes on independently";
        let mut fork = match original.fork().await {
            Ok(fork) => fork,
            Err(failure) => return self.fail(rule, failure.to_string()),
        };
        self.shows(rule, fork.as_mut(), LOOK, Expected::result(VALUE)).await;
        self.shows(rule, original, "'b' in y", Expected::result("false")).await;
        let rule = "a fork draws the same random numbers";
        let mut again = match original.fork().await {
            Ok(fork) => fork,
            Err(failure) => return self.fail(rule, failure.to_string()),
        };
        let mine = self.run(rule, original, "[random(), randint(1, 10**9)]").await;
        let its = self.run(rule, again.as_mut(), "[random(), randint(1, 10**9)]").await;
        if let (Some(mine), Some(its)) = (mine, its) {
            let same = mine.result.as_deref().map(RawValue::get) == its.result.as_deref().map(RawValue::get);
            self.require(rule, same, || format!("{:?} and {:?}", mine.result, its.result));
        }
    }

    async fn snapshots(&mut self, original: &mut dyn Interpreter) {
        let rule = "what is restored has the variables";
        let saved = match original.snapshot(1 << 30).await {
            Ok(saved) => saved,
            Err(failure) => return self.fail(rule, failure.to_string()),
        };
        for _ in 0..2 {
            let context = CodeContext { seed: SEED + 1, limits: CodeLimits::default() };
            match self.engine.restore(context, &saved).await {
                Ok(mut restored) => self.shows(rule, restored.as_mut(), LOOK, Expected::result(VALUE)).await,
                Err(failure) => return self.fail(rule, failure.to_string()),
            }
        }
        let rule = "what has no room is not saved, and nothing is lost";
        let refused = original.snapshot(16).await.err().map(|failure| failure.code);
        self.refuses(rule, refused);
        self.shows(rule, original, "len(x)", Expected::result("2")).await;
    }
}
