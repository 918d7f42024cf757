//! The cases of `malformed.rs`: what is wrong, in words, and the text that is sent.
//!
//! Entry point: one table per parser. See `malformed.rs` for what `@70` and its like stand for.

/// A description and a text.
pub(crate) type Cases = &'static [(&'static str, &'static str)];

/// Texts that are not JSON, some of which Python sends all the same.
pub(crate) const JSON: Cases = &[
    ("nothing", ""),
    ("white space only", " \n\t"),
    ("a word", "notjson"),
    ("a byte order mark", "\u{feff}{}"),
    ("no quotes around a key", "{bad"),
    ("single quotes", "{'a':1}"),
    ("a comment", "{} // x"),
    ("a comma too many in an object", "{\"a\":1,}"),
    ("a comma too many in an array", "[1,]"),
    ("a comma too few", "[1 2]"),
    ("no colon", "{\"a\" 1}"),
    ("an object that does not end", "{\"a\":1"),
    ("an array that does not end", "[1,\n 2"),
    ("a string that does not end", "{\"é\":\"abc"),
    ("a string that ends in a backslash", "\"abc\\"),
    ("a control character in a string", "\"a\u{1}\""),
    ("an unknown escape", "\"\\x41\""),
    ("half an escape", "\"\\u12"),
    ("something after the value", "{}\n{}"),
    ("a leading zero", "{\"a\":007}"),
    ("a plus sign", "+1"),
    ("a point without digits", "[1.]"),
    ("a point first", "[.5]"),
    ("an exponent without digits", "1e+"),
    ("hexadecimal", "0x10"),
    ("NaN", "{\"a\": NaN}"),
    ("Infinity", "[Infinity]"),
    ("minus Infinity", "{\"a\":\n [1, -Infinity]}"),
    ("Python's own words", "[True]"),
    ("100,000 levels that never end", "@unclosed"),
];

/// Frames on `/ws`.
pub(crate) const FRAMES: Cases = &[
    ("not JSON", "{bad"),
    ("nothing", ""),
    ("NaN in an argument", r#"{"type":"step","data":{"x":NaN}}"#),
    ("Infinity in an argument", r#"{"type":"step","data":{"x":-Infinity}}"#),
    ("a lone surrogate in a key", r#"{"type":"state","\ud800":1}"#),
    ("an array", "[]"),
    ("a string", "\"x\""),
    ("an integer", "5"),
    ("an integer of 70 digits", "@70"),
    ("a float", "1.5"),
    ("a boolean", "true"),
    ("null", " null "),
    ("100,000 levels", "@abyss"),
    ("100,000 levels that never end", "@unclosed"),
    ("no type", "{}"),
    ("type null", r#"{"type":null}"#),
    ("an unknown type", r#"{"type":"bogus"}"#),
    ("a type in other letters", r#"{"type":"RESET"}"#),
    ("type is a number", r#"{"type":5}"#),
    ("type is a boolean", r#"{"type":true}"#),
    ("type is an array", r#"{"type":["reset"]}"#),
    ("a lone surrogate in the type", r#"{"type":"\ud800"}"#),
    ("type twice", r#"{"type":"state","type":"close"}"#),
    ("type twice, once escaped", r#"{"type":"state","\u0074ype":"state"}"#),
    ("state with data", r#"{"type":"state","data":{}}"#),
    ("close with data", r#"{"type":"close","data":{}}"#),
    ("step without data", r#"{"type":"step"}"#),
    ("step with data null", r#"{"type":"step","data":null}"#),
    ("step with a string", r#"{"type":"step","data":"list_tools"}"#),
    ("step with 200 levels of arrays", r#"{"type":"step","data":@deep}"#),
    ("step with 100,000 levels of arrays", r#"{"type":"step","data":@abyss}"#),
    ("step with another key", r#"{"type":"step","data":{"type":"list_tools"},"request_id":"r1"}"#),
    ("step with nothing right", r#"{"request_id":"r1","type":"step","id":1}"#),
    ("mcp without data", r#"{"type":"mcp"}"#),
    ("mcp with an array", r#"{"type":"mcp","data":[]}"#),
    ("reset with an array", r#"{"type":"reset","data":[]}"#),
    ("reset with null", r#"{"type":"reset","data":null}"#),
    ("reset with another key", r#"{"type":"reset","seed":1}"#),
    ("reset with a key of data twice", r#"{"type":"reset","data":{"seed":1,"seed":2}}"#),
    ("reset with a lone surrogate in a key", r#"{"type":"reset","data":{"\udc00":1}}"#),
    ("reset with two mistakes", r#"{"type":"reset","data":{"episode_id":5,"seed":-1}}"#),
];

/// Actions, which are JSON already.
pub(crate) const ACTIONS: Cases = &[
    ("an array", "[]"),
    ("a string", "\"list_tools\""),
    ("null", "null"),
    ("a key twice", r#"{"type":"list_tools","type":"list_tools"}"#),
    ("a lone surrogate in a key", r#"{"type":"list_tools","\ud800":1}"#),
    ("list_tools with another key", r#"{"type":"list_tools","tool_name":"x"}"#),
    ("list_tools with a list as metadata", r#"{"type":"list_tools","metadata":[]}"#),
    ("call_tool without a name", r#"{"type":"call_tool"}"#),
    ("call_tool with name null", r#"{"type":"call_tool","tool_name":null}"#),
    ("call_tool with a number as name", r#"{"type":"call_tool","tool_name":5}"#),
    ("call_tool with a lone surrogate in the name", r#"{"type":"call_tool","tool_name":"\ud83d"}"#),
    ("call_tool with arguments null", r#"{"type":"call_tool","tool_name":"x","arguments":null}"#),
    ("call_tool with a list of arguments", r#"{"type":"call_tool","tool_name":"x","arguments":[1]}"#),
    ("call_tool with 200 levels of arguments", r#"{"type":"call_tool","tool_name":"x","arguments":@deep}"#),
    ("call_tool with metadata null", r#"{"type":"call_tool","tool_name":"x","metadata":null}"#),
    ("call_tool with another key", r#"{"type":"call_tool","tool_name":"x","bogus":@70}"#),
    ("call_tool with the journal's key", r#"{"type":"call_tool","tool_name":"x","parameters":{}}"#),
    ("call_tool with nothing right", r#"{"metadata":1,"type":"call_tool","arguments":"x","a":1,"b":2}"#),
    ("ListToolsAction with another key", r#"{"type":"ListToolsAction","x":1}"#),
    ("both tags at once", r#"{"type":"ListToolsAction","action_type":"ListToolsAction"}"#),
    ("CallToolAction without a name", r#"{"type":"CallToolAction","parameters":{}}"#),
    (
        "CallToolAction with a list of parameters",
        r#"{"action_type":"CallToolAction","tool_name":"x","parameters":[]}"#,
    ),
    ("CallToolAction with the stock key", r#"{"type":"CallToolAction","tool_name":"x","arguments":{}}"#),
    ("tool without a name", r#"{"action_type":"tool","tool_args":{}}"#),
    ("tool with a string of arguments", r#"{"action_type":"tool","tool_name":"x","tool_args":"{}"}"#),
    ("tool with a number as code", r#"{"action_type":"tool","tool_name":"x","code":1}"#),
    ("code without code", r#"{"action_type":"code"}"#),
    ("code with code null", r#"{"action_type":"code","code":null}"#),
    ("code with a lone surrogate", r#"{"action_type":"code","code":"x = '\udfff'"}"#),
    ("code with another key", r#"{"action_type":"code","code":"x","language":"python"}"#),
    ("call_tools without calls", r#"{"type":"call_tools"}"#),
    ("call_tools with calls null", r#"{"type":"call_tools","calls":null}"#),
    ("call_tools with an object of calls", r#"{"type":"call_tools","calls":{"a":{}}}"#),
    ("call_tools with another key", r#"{"type":"call_tools","calls":[],"parallel":true}"#),
    ("call_tools with no objects", r#"{"type":"call_tools","calls":[1,null,[]]}"#),
    ("a call without id and name", r#"{"type":"call_tools","calls":[{"id":"a","tool_name":"x"},{}]}"#),
    (
        "a call with wrong types",
        concat!(
            r#"{"type":"call_tools","calls":[{"id":1,"tool_name":[],"arguments":"x","needs":"a"},"#,
            r#"{"id":"b","tool_name":"x","needs":["a",2],"then":"c"}]}"#,
        ),
    ),
    ("a call with a key twice", r#"{"type":"call_tools","calls":[{"id":"a","id":"a","tool_name":"x"}]}"#),
];

/// Typed actions in an environment of tools alone.
pub(crate) const DEFAULT_CALLS: Cases = &[
    ("another type", r#"{"type":"bogus","tool_name":"x"}"#),
    ("type null", r#"{"type":null,"tool_name":"x"}"#),
    ("echo's deprecated message", r#"{"message":"hi"}"#),
    ("nothing", "{}"),
    ("a list", "[{}]"),
];

/// Bodies of a reset.
pub(crate) const RESETS: Cases = &[
    ("not JSON", "{\"seed\":\n }"),
    ("NaN", "{\"seed\":NaN}"),
    ("a negative seed", r#"{"seed":-1}"#),
    ("a seed of 70 digits", r#"{"seed":@70}"#),
    ("a negative seed of 70 digits", r#"{"seed":-@70}"#),
    ("a seed of 2^64", r#"{"seed":18446744073709551616}"#),
    ("a seed with a fraction", r#"{"seed":1.5}"#),
    ("a negative seed with a fraction", r#"{"seed":-1.5}"#),
    ("a seed written as a float", r#"{"seed":5.0}"#),
    ("a seed beyond all floats", r#"{"seed":1e400}"#),
    ("a word as seed", r#"{"seed":"x"}"#),
    ("a lone surrogate as seed", r#"{"seed":"\ud800"}"#),
    ("a boolean as seed", r#"{"seed":true}"#),
    ("a list as seed", r#"{"seed":[]}"#),
    ("200 levels as seed", r#"{"seed":@deep}"#),
    ("100,000 levels as seed", r#"{"seed":@abyss}"#),
    ("a number as episode_id", r#"{"episode_id":5}"#),
    ("256 characters as episode_id", r#"{"episode_id":"@256"}"#),
    ("a lone surrogate as episode_id", r#"{"episode_id":"\ud800"}"#),
    ("a key twice", r#"{"seed":1,"seed":1}"#),
    ("a lone surrogate in a key", r#"{"\ud800":1}"#),
    ("two mistakes", r#"{"episode_id":[],"seed":"x"}"#),
];

/// Bodies of a step.
pub(crate) const STEPS: Cases = &[
    ("not JSON", "notjson"),
    ("no action", "{}"),
    ("action null", r#"{"action":null}"#),
    ("a string as action", r#"{"action":"x"}"#),
    ("200 levels of arrays as action", r#"{"action":@deep}"#),
    ("timeout_s of 0", r#"{"action":{},"timeout_s":0}"#),
    ("a negative timeout_s", r#"{"action":{},"timeout_s":-0.5}"#),
    ("a word as timeout_s", r#"{"action":{},"timeout_s":"x"}"#),
    ("a boolean as timeout_s", r#"{"action":{},"timeout_s":true}"#),
    ("timeout_s beyond all floats", r#"{"action":{},"timeout_s":1e400}"#),
    ("256 characters as request_id", r#"{"action":{},"request_id":"@256"}"#),
    ("a number as request_id", r#"{"action":{},"request_id":7}"#),
    ("a negative expected_step", r#"{"action":{},"expected_step":-1}"#),
    ("256 characters as key", r#"{"action":{},"key":"@256"}"#),
    ("an object as key", r#"{"action":{},"key":{}}"#),
    ("a key twice", r#"{"action":{},"action":{}}"#),
    ("a lone surrogate in a key", r#"{"action":{},"\ud800":1}"#),
    ("nothing right", r#"{"timeout_s":0,"request_id":[],"expected_step":"x","key":1}"#),
];

/// Bodies that make a session.
pub(crate) const SESSIONS: Cases = &[
    ("not JSON", "{"),
    ("another key", r#"{"env":"echo"}"#),
    ("resume_s of 0", r#"{"resume_s":0}"#),
    ("a negative seed", r#"{"seed":-1}"#),
    ("nothing right", r#"{"x":1,"seed":"x","episode_id":5,"resume_s":[]}"#),
];

/// Bodies that name a split.
pub(crate) const FORKS: Cases = &[
    ("no fork", r#"{"n":0}"#),
    ("too many forks", r#"{"n":1025}"#),
    ("a fraction of a fork", r#"{"n":1.5}"#),
    ("an extra key", r#"{"n":1,"count":2}"#),
    ("a list", r"[1]"),
];

pub(crate) const RESTORES: Cases = &[
    ("no snapshot", "{}"),
    ("a number as snapshot", r#"{"snapshot":5}"#),
    ("an extra key", r#"{"snapshot":"x","session_id":"y"}"#),
];

pub(crate) const SPLITS: Cases = &[
    ("not JSON", "{'split':'train'}"),
    ("no split", "{}"),
    ("split null", r#"{"split":null}"#),
    ("a lone surrogate as split", r#"{"split":"\ud800"}"#),
    ("another key", r#"{"split":"train","index":1}"#),
    ("an array", "[]"),
];

/// Bodies that name one task.
pub(crate) const TASKS: Cases = &[
    ("nothing", "{}"),
    ("index null", r#"{"split":"train","index":null}"#),
    ("a word as index", r#"{"split":"train","index":"x"}"#),
    ("an index with a fraction", r#"{"split":"train","index":0.5}"#),
    ("an index of 70 digits", r#"{"split":"train","index":@70}"#),
    ("another key", r#"{"split":"train","index":0,"start":0}"#),
];

/// Bodies that name several tasks.
pub(crate) const RANGES: Cases = &[
    ("no split", r#"{"start":0,"stop":1}"#),
    ("a word as start", r#"{"split":"train","start":"x"}"#),
    ("a stop of 70 digits", r#"{"split":"train","stop":-@70}"#),
    ("another key", r#"{"split":"train","step":2}"#),
];

/// JSON-RPC messages.
pub(crate) const RPC: Cases = &[
    ("nothing", ""),
    ("not JSON", "{bad"),
    ("NaN", r#"{"jsonrpc":"2.0","id":NaN,"method":"ping"}"#),
    ("a batch", r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#),
    ("a string", "\"x\""),
    ("100,000 levels", "@abyss"),
    ("a lone surrogate in a key", r#"{"jsonrpc":"2.0","id":1,"method":"ping","\ud800":1}"#),
    ("nothing right", r#"{"type":"reset"}"#),
    ("an empty object", "{}"),
    ("no version", r#"{"id":1,"method":"tools/list"}"#),
    ("another version", r#"{"jsonrpc":"1.0","id":10,"method":"tools/list"}"#),
    ("a number as version", r#"{"jsonrpc":2.0,"id":10,"method":"tools/list"}"#),
    ("no method", r#"{"jsonrpc":"2.0","id":11}"#),
    ("method null", r#"{"jsonrpc":"2.0","id":11,"method":null}"#),
    ("a lone surrogate in the method", r#"{"jsonrpc":"2.0","id":11,"method":"\ud800"}"#),
    ("a list of params", r#"{"jsonrpc":"2.0","id":9,"method":"tools/list","params":[]}"#),
    ("another key", r#"{"jsonrpc":"2.0","id":12,"method":"tools/list","extra":1}"#),
    ("an id with a fraction", r#"{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}"#),
    ("an id of 70 digits", r#"{"jsonrpc":"2.0","id":@70,"method":"tools/list"}"#),
    ("a boolean as id", r#"{"jsonrpc":"2.0","id":false,"method":"tools/list"}"#),
    ("an object as id", r#"{"jsonrpc":"2.0","id":{},"method":"tools/list"}"#),
    ("200 levels as id", r#"{"jsonrpc":"2.0","id":@deep,"method":"tools/list"}"#),
    ("a lone surrogate as id", r#"{"jsonrpc":"2.0","id":"\ud800","method":"tools/list"}"#),
    ("id twice", r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}"#),
];

/// Parameters of `tools/call`.
pub(crate) const RPC_PARAMS: Cases = &[
    ("no params", "absent"),
    ("a list", "[]"),
    ("no name", "{}"),
    ("name null", r#"{"name":null}"#),
    ("a number as name", r#"{"name":5}"#),
    ("a lone surrogate as name", r#"{"name":"\ud800"}"#),
    ("a list of arguments", r#"{"name":"x","arguments":[]}"#),
    ("200 levels of arguments", r#"{"name":"x","arguments":@deep}"#),
    ("a number as session_id", r#"{"name":"x","session_id":5}"#),
    ("a lone surrogate as session_id", r#"{"name":"x","session_id":"\ud800"}"#),
    ("a key twice", r#"{"name":"x","name":"y"}"#),
    ("a lone surrogate in a key", r#"{"name":"x","\ud800":1}"#),
];

/// Frames of `oxenv.1`.
pub(crate) const MULTI: Cases = &[
    ("not JSON", "{bad"),
    ("an array", "[]"),
    ("null", "null"),
    ("nothing in it", "{}"),
    ("no id", r#"{"type":"state","session":"s"}"#),
    ("id null", r#"{"id":null,"type":"state","session":"s"}"#),
    ("id a float", r#"{"id":1.0,"type":"state","session":"s"}"#),
    ("id an exponent", r#"{"id":1e3,"type":"state","session":"s"}"#),
    ("id an object", r#"{"id":{},"type":"state","session":"s"}"#),
    ("id a lone surrogate", r#"{"id":"\ud800","type":"state","session":"s"}"#),
    ("id of 256 characters", r#"{"id":"@256","type":"state","session":"s"}"#),
    ("id twice", r#"{"id":1,"id":2,"type":"state","session":"s"}"#),
    ("no type", r#"{"id":1}"#),
    ("an unknown type", r#"{"id":1,"type":"bogus"}"#),
    ("a type of the stock socket", r#"{"id":1,"type":"mcp","data":{}}"#),
    ("no session", r#"{"id":1,"type":"step","data":{}}"#),
    ("session a number", r#"{"id":1,"type":"state","session":7}"#),
    ("session null", r#"{"id":1,"type":"state","session":null}"#),
    ("open with a session", r#"{"id":1,"type":"open","session":"s"}"#),
    ("open with an unknown key", r#"{"id":1,"type":"open","data":{"lease":1}}"#),
    ("open with a wait of nothing", r#"{"id":1,"type":"open","data":{"queue_s":0}}"#),
    ("step without data", r#"{"id":1,"type":"step","session":"s"}"#),
    ("step with data null", r#"{"id":1,"type":"step","session":"s","data":null}"#),
    ("step with another key", r#"{"id":1,"type":"step","session":"s","data":{},"extra":1}"#),
    ("step with a key twice in its action", r#"{"id":1,"type":"step","session":"s","data":{"a":1,"a":2}}"#),
    ("step with a negative seq", r#"{"id":1,"type":"step","session":"s","data":{},"seq":-1}"#),
    (
        "step with a string as expected_step",
        r#"{"id":1,"type":"step","session":"s","data":{},"expected_step":"3"}"#,
    ),
    ("step with a deadline of nothing", r#"{"id":1,"type":"step","session":"s","data":{},"timeout_s":0}"#),
    ("step with a key of 256 characters", r#"{"id":1,"type":"step","session":"s","data":{},"key":"@256"}"#),
    ("reset with expected_step", r#"{"id":1,"type":"reset","session":"s","expected_step":1}"#),
    ("state with data", r#"{"id":1,"type":"state","session":"s","data":{}}"#),
    ("state with a key", r#"{"id":1,"type":"state","session":"s","key":"k"}"#),
    ("close with data", r#"{"id":1,"type":"close","session":"s","data":{}}"#),
    ("fork of none", r#"{"id":1,"type":"fork","session":"s","data":{"n":0}}"#),
    ("fork of too many", r#"{"id":1,"type":"fork","session":"s","data":{"n":1025}}"#),
    ("fork with expected_step", r#"{"id":1,"type":"fork","session":"s","expected_step":3}"#),
    ("restore without data", r#"{"id":1,"type":"restore"}"#),
    ("restore with a session", r#"{"id":1,"type":"restore","session":"s","data":{"snapshot":"x"}}"#),
    ("batch without data", r#"{"id":1,"type":"batch"}"#),
    ("batch with a list as data", r#"{"id":1,"type":"batch","data":[]}"#),
    ("batch with a session", r#"{"id":1,"type":"batch","session":"s","data":{"items":[{}]}}"#),
    ("batch without items", r#"{"id":1,"type":"batch","data":{}}"#),
    ("batch with items null", r#"{"id":1,"type":"batch","data":{"items":null}}"#),
    ("batch with no items", r#"{"id":1,"type":"batch","data":{"items":[]}}"#),
    ("batch that waits for none", r#"{"id":1,"type":"batch","data":{"items":[{}],"first":0}}"#),
    ("batch that waits for too many", r#"{"id":1,"type":"batch","data":{"items":[{}],"first":2}}"#),
    ("batch with another key", r#"{"id":1,"type":"batch","data":{"items":[{}],"last":1}}"#),
    ("batch with items twice", r#"{"id":1,"type":"batch","data":{"items":[{}],"items":[{}]}}"#),
    ("batch of items that do not end", r#"{"id":1,"type":"batch","data":{"items":[{},"#),
    ("batch with a comma too many", r#"{"id":1,"type":"batch","data":{"items":[{},]}}"#),
    ("batch with a comma too few", r#"{"id":1,"type":"batch","data":{"items":[{} {}]}}"#),
    ("batch of 100,000 levels that never end", r#"{"id":1,"type":"batch","data":{"items":@unclosed"#),
];

/// Bodies of `POST /batch`.
pub(crate) const BATCHES: Cases = &[
    ("a list", "[]"),
    ("nothing in it", "{}"),
    ("items an object", r#"{"items":{}}"#),
    ("no items", r#"{"items":[]}"#),
    ("the first only", r#"{"items":[{}],"first":1}"#),
    ("an endless deadline", r#"{"items":[{}],"timeout_s":-1}"#),
    ("a key twice", r#"{"items":[{}],"items":[{}]}"#),
];
