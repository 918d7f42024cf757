//! The keys of a manifest: those of each level are known to the others, so that a key in the wrong place is
//! recognised.

/// The keys of the top level.
pub(super) const TOP_KEYS: [&str; 3] = ["version", "prefix", "tools"];
/// The keys of a toolset.
pub(super) const ENTRY_KEYS: [&str; 17] = [
    "name",
    "type",
    "enabled",
    "mcp_server",
    "startup",
    "scope",
    "timeout_s",
    "start_timeout_s",
    "on_reset",
    "on_fork",
    "prefix",
    "required",
    "allow",
    "deny",
    "roles",
    "rate_limit",
    "arguments",
];
/// The keys of `mcp_server`.
pub(super) const SERVER_KEYS: [&str; 9] =
    ["transport", "command", "args", "env", "cwd", "url", "headers", "toolset", "path"];
