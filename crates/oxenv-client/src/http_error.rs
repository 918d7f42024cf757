//! The causes of an error of the HTTP client.
//!
//! Invariant: no URL is shown, because it may hold a password.

use std::error::Error as _;

use tokio_rustls::rustls;

/// What caused it, without the URL.
pub(crate) fn describe_causes(error: &reqwest::Error) -> String {
    let causes: Vec<String> = sources(error).map(ToString::to_string).collect();
    // An error often repeats its cause at its end.
    let mut messages: Vec<&str> = Vec::new();
    for cause in &causes {
        if !messages.last().is_some_and(|last| last.contains(cause.as_str())) {
            messages.push(cause);
        }
    }
    if messages.is_empty() { "it failed".to_owned() } else { messages.join(": ") }
}

/// Whether the HTTP library reports that of it.
pub(crate) fn any_hyper_error(error: &reqwest::Error, says: impl Fn(&hyper::Error) -> bool) -> bool {
    sources(error).any(|source| source.downcast_ref::<hyper::Error>().is_some_and(&says))
}

/// Whether there is no safe connection.
pub(crate) fn is_tls(error: &reqwest::Error) -> bool {
    sources(error).any(|source| source.is::<rustls::Error>() || tls_error_within(source).is_some())
}

fn sources<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

/// The TLS error that an IO error holds, however deep: its sources do not name it.
fn tls_error_within<'a>(source: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = source.downcast_ref::<std::io::Error>()?.get_ref()?;
    inner.downcast_ref::<rustls::Error>().or_else(|| tls_error_within(inner))
}
