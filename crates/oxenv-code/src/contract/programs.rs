//! Rules of programs by themselves: variables, output, values, exceptions, randomness, the clock.

use oxenv_core::CodeLimits;

use super::{Expected, Suite};

impl Suite {
    pub(super) async fn programs(&mut self) {
        self.variables().await;
        self.output().await;
        self.exceptions().await;
        self.randomness().await;
    }

    async fn variables(&mut self) {
        let rule = "variables persist from program to program";
        let Some(mut one) = self.open(CodeLimits::default()).await else { return };
        let Some(mut other) = self.open(CodeLimits::default()).await else { return };
        let nothing = Expected::default();
        self.shows(rule, one.as_mut(), "x = 40\ndef double(n):\n    return 2 * n", nothing).await;
        self.shows(rule, one.as_mut(), "import json\nx = x + 1", nothing).await;
        self.shows(rule, one.as_mut(), "json.dumps(double(x))", Expected::result("\"82\"")).await;
        let rule = "interpreters share nothing";
        self.shows(rule, other.as_mut(), "x", Expected::error("NameError", "'x'")).await;
    }

    async fn output(&mut self) {
        let rule = "output and the value of the last expression are shown";
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let interpreter = interpreter.as_mut();
        let both = Expected { stdout: "a 1\nb", result: Some("2"), ..Expected::default() };
        self.shows(rule, interpreter, "print('a', 1)\nprint('b', end='')\n1 + 1", both).await;
        for (code, result) in [
            ("{'a': [1, 2.5, None, True, 'é\\n'], 'b': {}}", "{\"a\":[1,2.5,null,true,\"é\\n\"],\"b\":{}}"),
            ("2 ** 70", "1180591620717411303424"),
            ("(1, 2)", "[1,2]"),
            ("{1}", "\"{1}\""),
            ("float('inf')", "\"inf\""),
            ("'text'", "\"text\""),
        ] {
            self.shows(rule, interpreter, code, Expected::result(result)).await;
        }
        for code in ["", "None", "x = 1", "# nothing"] {
            self.shows(rule, interpreter, code, Expected::default()).await;
        }
    }

    async fn exceptions(&mut self) {
        let rule = "an exception is an outcome, and what was set before it stays";
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let interpreter = interpreter.as_mut();
        let raised = Expected { stdout: "before\n", ..Expected::error("ZeroDivisionError", "by zero") };
        let code = "y = 5\nprint('before')\ndef f():\n    return 1 / 0\nf()";
        self.shows(rule, interpreter, code, raised).await;
        self.shows(rule, interpreter, "y", Expected::result("5")).await;
        self.shows(rule, interpreter, "raise ValueError('no')", Expected::error("ValueError", "no")).await;
        self.shows(rule, interpreter, "if True", Expected::error("SyntaxError", "")).await;
        let caught = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    print(error)";
        self.shows(rule, interpreter, caught, Expected::stdout("division by zero\n")).await;
        let exited = Expected { stdout: "a\n", exit_code: 3, ..Expected::default() };
        self.shows("a program may exit", interpreter, "print('a')\nexit(3)\nprint('b')", exited).await;
        let rule = "a traceback says where";
        if let Some(outcome) = self.run(rule, interpreter, "def g():\n    return [][0]\n\ng()").await {
            let traceback = outcome.error.map(|error| error.traceback).unwrap_or_default();
            let says = ["Traceback (most recent call last):", "line 4", "line 2, in g", "IndexError: "];
            let fits = says.iter().all(|part| traceback.contains(part)) && outcome.stderr == traceback;
            self.require(rule, fits, || format!("{traceback}\nand stderr: {}", outcome.stderr));
        }
    }

    async fn randomness(&mut self) {
        let rule = "randomness comes from the seed alone";
        let draw = "[random(), random(), randint(1, 6), randint(-5, 10**12)]";
        let mut drawn = Vec::new();
        for seed in [1, 1, 2] {
            let Some(mut interpreter) = self.open_with(seed, CodeLimits::default()).await else { return };
            let Some(outcome) = self.run(rule, interpreter.as_mut(), draw).await else { return };
            drawn.push(outcome.result.map(|result| result.get().to_owned()));
        }
        let fits = drawn[0].is_some() && drawn[0] == drawn[1] && drawn[1] != drawn[2];
        self.require(rule, fits, || format!("{drawn:?}"));
        let rule = "there is a clock";
        let Some(mut interpreter) = self.open(CodeLimits::default()).await else { return };
        let code = "import datetime\n(time() > 1.7e9, datetime.datetime.now().year > 2023, \
                    datetime.date.today().year > 2023)";
        self.shows(rule, interpreter.as_mut(), code, Expected::result("[true,true,true]")).await;
    }
}
