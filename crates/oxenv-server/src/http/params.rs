//! Parameters of paths and queries.
//!
//! Invariant: one that cannot be read is refused in the shape of every other refusal, not as text.

use axum::extract::{FromRequestParts, OptionalFromRequestParts, Path, Query, RawPathParams};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::Refusal;

/// The one parameter of a path.
pub(crate) struct InPath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = <Path<String> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        path.map(|Path(text)| InPath(text)).map_err(|_| not_text())
    }
}

/// For handlers of several routes, of which one has no parameter in its path.
impl<S: Send + Sync> OptionalFromRequestParts<S> for InPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Refusal> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| not_text())?;
        Ok(params.iter().next().map(|(_, text)| InPath(text.to_owned())))
    }
}

fn not_text() -> Refusal {
    Refusal::Status(StatusCode::BAD_REQUEST, "the path is not UTF-8 text".to_owned())
}

/// The parameters of a query.
pub(crate) struct InQuery<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for InQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(parameters)| InQuery(parameters))
            .map_err(|refused| Refusal::Status(refused.status(), refused.body_text()))
    }
}
