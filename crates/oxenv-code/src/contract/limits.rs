//! Rules of limits: whatever a program does, it ends in time with an outcome, or with a failure that says
//! whose fault it is.

use std::time::Duration;

use oxenv_core::{CodeLimits, Failure, Interpreter};
use oxenv_wire::{CodeOutcome, CodePart, FailureKind};
use tokio::time::Instant;

use super::{Expected, Program, Suite};

/// The limits of programs that try to go beyond them.
const TIGHT: CodeLimits = CodeLimits {
    time: Duration::from_millis(400),
    memory: 64 << 20,
    recursion: 300,
    output: 4096,
    calls: 20,
};
/// How much longer than its time a program may take.
const GRACE: Duration = Duration::from_secs(10);

/// A program that catches whatever is raised, and goes on.
const CATCH_ALL: &str = "
x = 1
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
";
/// A program that calls a tool again and again, whatever is raised.
const CALL_WITHOUT_END: &str = "
n = 0
while True:
    try:
        add(1)
        n += 1
    except BaseException:
        pass
";

impl Suite {
    pub(super) async fn limits(&mut self) {
        self.time().await;
        self.deadline().await;
        self.memory().await;
        self.recursion().await;
        self.prints().await;
        self.tight_loop().await;
        self.given_up().await;
    }

    async fn time(&mut self) {
        let rule = "a program is interrupted when its time is over, and its variables stay";
        let Some(mut interpreter) = self.open(TIGHT).await else { return };
        let interpreter = interpreter.as_mut();
        for code in [
            "x = 1\nwhile True:\n    pass",
            CATCH_ALL,
            "x = 1\nwhile True:\n    wait(50)",
            "x = 1\nwait(390)\nwhile True:\n    pass",
            "x = 1\nwait(600)\nx = 2",
        ] {
            let began = Instant::now();
            let Some(outcome) = self.run(rule, interpreter, code).await else { return };
            let error = outcome.error.as_ref();
            let says = error.is_some_and(|error| {
                error.error_type == "TimeoutError"
                    && error.message.starts_with("the program was interrupted after 0.4 s, the most")
            });
            let soon = began.elapsed() < TIGHT.time + GRACE;
            self.require(rule, says && soon, || format!("{code:?}: {error:?} after {:?}", began.elapsed()));
            self.shows(rule, interpreter, "x", Expected::result("1")).await;
        }
    }

    async fn deadline(&mut self) {
        let rule = "a program is interrupted at the deadline of its step";
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let deadline = Instant::now().checked_add(Duration::from_millis(200));
        let program = Program { code: "x = 1\nwhile True:\n    pass", deadline, tools: &self.tools };
        let error = match interpreter.run(program).await {
            Ok(outcome) => outcome.error.map(|error| error.message).unwrap_or_default(),
            Err(failure) => failure.to_string(),
        };
        self.require(rule, error.contains("at the deadline of its step"), || error);
        self.shows(rule, interpreter.as_mut(), "x", Expected::result("1")).await;
    }

    async fn memory(&mut self) {
        let rule = "a program gets no more memory than its limit";
        for code in [
            "10 ** 10 ** 10",
            "[0] * 10 ** 10",
            "'x' * 10 ** 11",
            "x = []\nwhile True:\n    x.append('y' * 10000)",
            "x = [0]\nwhile True:\n    x = x + x",
            "x = 'y'\nwhile True:\n    x += x",
        ] {
            self.ends(rule, code).await;
        }
    }

    async fn recursion(&mut self) {
        let rule = "recursion is bounded";
        let Some(mut interpreter) = self.open(TIGHT).await else { return };
        let deep = "def f(n):\n    return f(n + 1)\nf(0)";
        self.shows(rule, interpreter.as_mut(), deep, Expected::error("RecursionError", "")).await;
        for code in [
            "x = []\nfor _ in range(100000):\n    x = [x]\nprint(x)",
            "x = []\nfor _ in range(100000):\n    x = [x]\nx",
            "x = {}\nfor _ in range(100000):\n    x = {'a': x}\necho_value(x)",
            "x = []\nx.append(x)\nx",
            "x = []\nx.append(x)\necho_value(x)",
        ] {
            self.ends(rule, code).await;
        }
        let nested = format!("{}{}", "(".repeat(100_000), ")".repeat(100_000));
        self.ends(rule, &nested).await;
    }

    async fn prints(&mut self) {
        let rule = "output is cut off at its limit, and marked";
        let Some(mut interpreter) = self.open(TIGHT).await else { return };
        let interpreter = interpreter.as_mut();
        for code in ["for _ in range(1000):\n    print('x' * 1000)", "while True:\n    print('x' * 1000)"] {
            let Some(outcome) = self.run(rule, interpreter, code).await else { return };
            let cut = outcome.stdout.len() <= TIGHT.output && outcome.truncated.contains(&CodePart::Stdout);
            self.require(rule, cut, || format!("{code:?} shows {} bytes", outcome.stdout.len()));
        }
        for (code, part) in
            [("'y' * 10000", CodePart::Result), ("raise ValueError('z' * 100000)", CodePart::Error)]
        {
            let Some(outcome) = self.run(rule, interpreter, code).await else { return };
            let small = outcome.size() < 5 * TIGHT.output && outcome.truncated == [part];
            self.require(rule, small, || {
                format!("{code:?}: {} bytes, {:?}", outcome.size(), outcome.truncated)
            });
        }
        // A gigabyte, most of it by one call.
        self.ends(rule, "print('x' * 10 ** 9)").await;
        self.ends(rule, "for _ in range(1000):\n    print('x' * 10 ** 6)").await;
    }

    async fn tight_loop(&mut self) {
        let rule = "a program makes no more tool calls than its limit, and cannot go on after them";
        let Some(mut interpreter) = self.open(TIGHT).await else { return };
        let code = CALL_WITHOUT_END;
        let before = self.tools.added();
        let Some(outcome) = self.run(rule, interpreter.as_mut(), code).await else { return };
        let made = self.tools.added() - before;
        let error = outcome.error.map(|error| error.message).unwrap_or_default();
        let fits =
            made == TIGHT.calls && outcome.calls.len() == made && error.contains("more than 20 tool calls");
        self.require(rule, fits, || format!("{made} calls, {} told, {error}", outcome.calls.len()));
        self.shows(rule, interpreter.as_mut(), "n", Expected::result("20")).await;
    }

    async fn given_up(&mut self) {
        let rule = "a program that was given up ends with its interpreter";
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let program = Program { code: "wait(60000)", deadline: None, tools: &self.tools };
        let early = tokio::time::timeout(Duration::from_millis(300), interpreter.run(program)).await;
        self.require(rule, early.is_err(), || format!("{early:?}"));
        if let Some(Ok(outcome)) = self.try_run(rule, interpreter.as_mut(), "1").await {
            self.fail(rule, format!("it runs another: {outcome:?}"));
        }
    }

    /// Runs a program that goes beyond a limit: it ends soon, with an outcome or as the program's fault.
    async fn ends(&mut self, rule: &'static str, code: &str) {
        let Some(mut interpreter) = self.open(TIGHT).await else { return };
        let began = Instant::now();
        let Some(ended) = self.try_run(rule, interpreter.as_mut(), code).await else { return };
        let shown: String = code.chars().take(80).collect();
        if began.elapsed() > TIGHT.time + GRACE {
            self.fail(rule, format!("{shown:?} took {:?}", began.elapsed()));
        }
        match ended {
            Ok(outcome) => self.go_on(rule, &shown, interpreter.as_mut(), &outcome).await,
            Err(failure) => self.at_fault(rule, &shown, &failure),
        }
    }

    /// The interpreter is there and works.
    async fn go_on(
        &mut self,
        rule: &'static str,
        code: &str,
        interpreter: &mut dyn Interpreter,
        outcome: &CodeOutcome,
    ) {
        let small = outcome.size() < 8 * TIGHT.output;
        self.require(rule, small, || format!("{code:?} shows {} bytes", outcome.size()));
        if let Some(Err(failure)) = self.try_run(rule, interpreter, "x = None").await {
            self.fail(rule, format!("after {code:?} nothing runs: {failure}"));
        }
    }

    fn at_fault(&mut self, rule: &'static str, code: &str, failure: &Failure) {
        let its_own = matches!(failure.kind, FailureKind::Action | FailureKind::Timeout);
        self.require(rule, its_own, || format!("{code:?} is told as {:?}: {failure}", failure.kind));
    }
}
