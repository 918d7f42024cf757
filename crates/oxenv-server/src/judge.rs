//! [`HttpJudge`]: a model behind an OpenAI-compatible endpoint, as a judge for rubrics.
//!
//! Invariant: a question has one deadline, whatever happens on the way; a failure names the model and
//! what happened, and holds neither the key nor anything that the endpoint wrote.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{Failure, Judge, JudgeAnswer, JudgeQuestion, Work};
use oxenv_wire::{ErrorCode, Phase, after};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

/// How an endpoint is asked.
///
/// ```
/// use oxenv_server::{HttpJudgeOptions, JudgeKey};
///
/// let options = HttpJudgeOptions {
///     key: Some(JudgeKey::new("secret")),
///     retries: 5,
///     ..HttpJudgeOptions::new("https://api.openai.com/v1", "gpt-4o-mini")
/// };
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[derive(Debug, Clone)]
pub struct HttpJudgeOptions {
    /// The base URL, `https://api.openai.com/v1`: questions go to `chat/completions` below it.
    pub url: String,
    /// The model's name as the endpoint knows it.
    pub model: String,
    /// The key, if the endpoint wants one.
    pub key: Option<JudgeKey>,
    /// How long a question may take, with its retries and its wait for a turn; default 30 s.
    pub deadline: Duration,
    /// How often a question is repeated that met status 429, 5xx or no connection; default 2.
    pub retries: u32,
    /// How long to wait before the first repeat, doubled with each, where the endpoint sends no
    /// `Retry-After`; default 500 ms.
    pub backoff: Duration,
    /// Questions asked at the same time; default 8. Others wait for their turn.
    pub concurrency: usize,
    /// The longest reply in bytes; default 1 MiB.
    pub max_reply: usize,
}

/// A key that no text shows.
///
/// ```
/// assert_eq!(format!("{:?}", oxenv_server::JudgeKey::new("secret")), "***");
/// ```
#[derive(Clone)]
pub struct JudgeKey(Arc<str>);

/// A judge over HTTP.
///
/// ```
/// use oxenv_server::{HttpJudge, HttpJudgeOptions};
///
/// let judge = HttpJudge::new(HttpJudgeOptions::new("http://127.0.0.1:11434/v1", "qwen3"))?;
/// assert!(HttpJudge::new(HttpJudgeOptions::new("not a URL", "qwen3")).is_err());
/// # Ok::<(), String>(())
/// ```
pub struct HttpJudge {
    client: Client,
    url: Url,
    identity: String,
    turns: Semaphore,
    options: HttpJudgeOptions,
}

impl HttpJudgeOptions {
    /// An endpoint without a key, and the defaults.
    #[must_use]
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        HttpJudgeOptions {
            url: url.into(),
            model: model.into(),
            key: None,
            deadline: Duration::from_secs(30),
            retries: 2,
            backoff: Duration::from_millis(500),
            concurrency: 8,
            max_reply: 1 << 20,
        }
    }
}

impl JudgeKey {
    /// Conceals a key.
    #[must_use]
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        JudgeKey(key.into())
    }
}

impl fmt::Debug for JudgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl HttpJudge {
    /// A judge. Nothing is sent yet.
    ///
    /// # Errors
    /// When the URL or the key cannot be used. The text holds no secret.
    pub fn new(options: HttpJudgeOptions) -> Result<Self, String> {
        let url = endpoint(&options.url)?;
        let mut headers = HeaderMap::new();
        if let Some(JudgeKey(key)) = &options.key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| "the judge's key has a character that HTTP does not allow".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .default_headers(headers)
            // A redirect could carry the key to another host.
            .redirect(Policy::none())
            .build()
            .map_err(|error| format!("the HTTP client cannot be made: {error}"))?;
        let identity = format!("{url} {} at temperature 0", options.model);
        let turns = Semaphore::new(options.concurrency.clamp(1, Semaphore::MAX_PERMITS));
        Ok(HttpJudge { client, url, identity, turns, options })
    }

    async fn within_deadline(&self, question: JudgeQuestion) -> Result<JudgeAnswer, Failure> {
        let until = after(Instant::now(), self.options.deadline);
        let asked = async {
            // It is never closed, so a turn comes.
            let _turn = self.turns.acquire().await;
            self.with_retries(&question, until).await
        };
        let text = timeout_at(until, asked).await.unwrap_or_else(|_| {
            let what = format!("did not answer within {:?}", self.options.deadline);
            Err(self.failure(ErrorCode::DeadlineExceeded, &what))
        })?;
        Ok(JudgeAnswer { text })
    }

    async fn with_retries(&self, question: &JudgeQuestion, until: Instant) -> Result<String, Failure> {
        let body = json!({
            "model": self.options.model,
            "temperature": 0,
            "messages": [
                { "role": "system", "content": question.instructions },
                { "role": "user", "content": question.prompt },
            ],
        });
        let (mut retries, mut backoff) = (self.options.retries, self.options.backoff);
        loop {
            let trouble = match self.once(&body).await {
                Ok(text) => return Ok(text),
                Err(trouble) => trouble,
            };
            let wait = trouble.wait.unwrap_or(backoff);
            let worth_it = trouble.passes && retries > 0;
            // Waiting past the deadline would only make a worse message of this one.
            if !worth_it || wait >= until.saturating_duration_since(Instant::now()) {
                return Err(self.failure(ErrorCode::ExecutionError, &trouble.what));
            }
            tracing::debug!(model = self.options.model, what = trouble.what, ?wait, "a judge is asked again");
            sleep(wait).await;
            retries -= 1;
            backoff = backoff.saturating_mul(2);
        }
    }

    async fn once(&self, body: &serde_json::Value) -> Result<String, JudgeError> {
        let sent = self.client.post(self.url.clone()).json(body).send().await;
        let response = sent.map_err(|error| match error.is_connect() {
            true => JudgeError::retryable("could not be reached", None),
            false => JudgeError::permanent("went away while it was asked"),
        })?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            let wait = retry_after(&response);
            return Err(JudgeError::retryable(format!("answered with status {}", status.as_u16()), wait));
        }
        if status != StatusCode::OK {
            return Err(JudgeError::permanent(format!("answered with status {}", status.as_u16())));
        }
        let reply = self.bounded(response).await?;
        let reply: Completion = serde_json::from_slice(&reply)
            .map_err(|_| JudgeError::permanent("did not answer in the form of chat/completions"))?;
        let text = reply.choices.into_iter().next().and_then(|choice| choice.message.content);
        text.ok_or_else(|| JudgeError::permanent("gave no text"))
    }

    async fn bounded(&self, mut response: Response) -> Result<Vec<u8>, JudgeError> {
        let mut reply = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(reply),
                Ok(Some(chunk)) if reply.len() + chunk.len() <= self.options.max_reply => {
                    reply.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    let most = self.options.max_reply;
                    return Err(JudgeError::permanent(format!("answered with more than {most} bytes")));
                }
                Err(_) => return Err(JudgeError::permanent("went away while it answered")),
            }
        }
    }

    fn failure(&self, code: ErrorCode, what: &str) -> Failure {
        let message = format!("the judge '{}' {what}; the act was not scored", self.options.model);
        let failure = match code {
            ErrorCode::DeadlineExceeded => Failure::new(code, message),
            _ => Failure::infrastructure(message),
        };
        failure
            .in_phase(Phase::Verify)
            .with(|detail| detail.internal = Some(format!("it was asked at {}", self.url)))
    }
}

impl Judge for HttpJudge {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn ask(&self, question: JudgeQuestion) -> Work<'_, Result<JudgeAnswer, Failure>> {
        Work::pending(self.within_deadline(question))
    }
}

/// Why there was no answer.
struct JudgeError {
    what: String,
    /// Whether it may be gone when the question is repeated.
    passes: bool,
    /// How long the endpoint wants us to wait.
    wait: Option<Duration>,
}

impl JudgeError {
    fn retryable(what: impl Into<String>, wait: Option<Duration>) -> Self {
        JudgeError { what: what.into(), passes: true, wait }
    }

    fn permanent(what: impl Into<String>) -> Self {
        JudgeError { what: what.into(), passes: false, wait: None }
    }
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

/// Where questions go. What a URL could hide a secret in is refused, because URLs are shown in messages.
fn endpoint(base: &str) -> Result<Url, String> {
    let mut url = Url::parse(base).map_err(|error| format!("the judge's url cannot be used: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the judge's url must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("the judge's url must hold neither a name, a password nor a query; \
                    give the key by itself"
            .to_owned());
    }
    url.set_fragment(None);
    let path = format!("{}/chat/completions", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// The wait that a reply asks for, in whole seconds; a date is not looked at.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
