//! What an upstream offers: its lists, page by page, in our own shape.
//!
//! Invariant: an item that cannot be offered is left out alone, with a warning; it hides no other.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use oxenv_core::{RequestError, ResourcesAndPrompts};
use oxenv_wire::{RpcCode, Tool};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::UpstreamError;

/// Pages of one list that are read at most.
const MAX_PAGES: usize = 1000;
/// Items of one list that are kept at most.
const MAX_ITEMS: usize = 50_000;
/// The longest page that is read.
const MAX_PAGE: usize = 32 << 20;
/// Bytes of one list that are kept, as they came.
const MAX_LIST: usize = 32 << 20;
/// The longest item that is kept.
const MAX_ITEM: usize = 4 << 20;

/// All that an upstream offers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lists {
    /// Its tools, in its order.
    pub(crate) tools: Arc<[Tool]>,
    /// The rest.
    pub(crate) extras: Arc<ResourcesAndPrompts>,
}

/// Which lists an upstream declares.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ListCapabilities {
    pub(crate) tools: bool,
    pub(crate) resources: bool,
    pub(crate) prompts: bool,
}

/// Asks an upstream for a page of a list: the method, and the cursor unless it is the first.
pub(crate) trait Pages: Sync {
    /// Gives the result as JSON.
    fn page(
        &self,
        method: &'static str,
        cursor: Option<String>,
    ) -> impl Future<Output = Result<String, UpstreamError>> + Send;
}

impl Lists {
    /// Reads all lists.
    ///
    /// # Errors
    /// When the tools cannot be listed. Of the rest, what cannot be listed is left out.
    pub(crate) async fn read(
        pages: &impl Pages,
        offered: ListCapabilities,
        label: &str,
    ) -> Result<Self, UpstreamError> {
        let mut lists = Lists::default();
        if offered.tools {
            lists.tools = list_tools(pages, label).await?.into();
        }
        let mut extras = ResourcesAndPrompts::default();
        if offered.resources {
            extras.resources = some(pages, "resources/list", "resources", label).await?;
            extras.templates = some(pages, "resources/templates/list", "resourceTemplates", label).await?;
        }
        if offered.prompts {
            extras.prompts = some(pages, "prompts/list", "prompts", label).await?;
        }
        lists.extras = Arc::new(extras);
        Ok(lists)
    }

    /// The tool of that name.
    pub(crate) fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|known| known.name == name)
    }

    /// The lists, sharing pointers with `other` where they are equal.
    pub(crate) fn sharing(mut self, other: &Lists) -> Self {
        if self.tools == other.tools {
            self.tools = other.tools.clone();
        }
        let (ours, theirs) = (&*self.extras, &*other.extras);
        if (&ours.resources, &ours.templates, &ours.prompts)
            == (&theirs.resources, &theirs.templates, &theirs.prompts)
        {
            self.extras = other.extras.clone();
        }
        self
    }

    /// Whether these are the same lists, by pointer.
    pub(crate) fn is(&self, other: &Lists) -> bool {
        Arc::ptr_eq(&self.tools, &other.tools) && Arc::ptr_eq(&self.extras, &other.extras)
    }
}

/// Reads the list of tools.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn list_tools(pages: &impl Pages, label: &str) -> Result<Vec<Tool>, UpstreamError> {
    Ok(tools(all(pages, "tools/list", "tools", label).await?, label))
}

/// A list that is left empty when its upstream refuses it after all.
async fn some(
    pages: &impl Pages,
    method: &'static str,
    key: &str,
    label: &str,
) -> Result<Vec<Value>, UpstreamError> {
    match all(pages, method, key, label).await {
        Err(UpstreamError::Refused(fault)) => {
            tracing::debug!(toolset = %label, "its server refuses {method}: {}", fault.message);
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Every item of a list.
async fn all(
    pages: &impl Pages,
    method: &'static str,
    key: &str,
    label: &str,
) -> Result<Vec<Value>, UpstreamError> {
    let mut list = List::default();
    let mut cursors = HashSet::new();
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let text = pages.page(method, cursor).await?;
        let Some(next) = list.take_page(&text, key, method, label)? else { return Ok(list.items) };
        list.bytes += next.len();
        if list.is_full() || !cursors.insert(next.clone()) {
            break;
        }
        cursor = Some(next);
    }
    let taken = list.items.len();
    tracing::warn!(
        toolset = %label,
        "its server's {method} is too long or has no end; {taken} items of it are taken"
    );
    Ok(list.items)
}

/// The part of a list that was read.
#[derive(Default)]
struct List {
    items: Vec<Value>,
    /// The length of its items and cursors, as they came.
    bytes: usize,
}

impl List {
    fn is_full(&self) -> bool {
        self.items.len() >= MAX_ITEMS || self.bytes >= MAX_LIST
    }

    /// Adds the items of a page; returns the cursor of the next.
    fn take_page(
        &mut self,
        text: &str,
        key: &str,
        method: &str,
        label: &str,
    ) -> Result<Option<String>, UpstreamError> {
        #[derive(Deserialize)]
        struct Cursor<'a> {
            #[serde(rename = "nextCursor", default, borrow)]
            next: Option<Cow<'a, str>>,
        }
        let garbage = |what: String| {
            UpstreamError::Refused(RequestError::new(
                RpcCode::InternalError,
                format!("its server answers {method} with {what}"),
            ))
        };
        if text.len() > MAX_PAGE {
            return Err(garbage(format!("a page of more than {} MiB", MAX_PAGE >> 20)));
        }
        let fields: std::collections::HashMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(text).map_err(|error| garbage(format!("what is no object: {error}")))?;
        let found = fields.get(key).ok_or_else(|| garbage(format!("no '{key}'")))?;
        let found: Vec<&RawValue> = serde_json::from_str(found.get())
            .map_err(|error| garbage(format!("'{key}' that is no list: {error}")))?;
        for item in found {
            if self.is_full() {
                break;
            }
            let length = item.get().len();
            let read = (length <= MAX_ITEM).then(|| serde_json::from_str::<Value>(item.get()));
            match read {
                Some(Ok(item)) if item.is_object() => {
                    self.bytes += length;
                    self.items.push(item);
                }
                _ => {
                    tracing::warn!(
                        toolset = %label, length,
                        "an item of its server's {method} cannot be read, or is too long; it is left out"
                    );
                }
            }
        }
        let cursor: Cursor<'_> = serde_json::from_str(text).unwrap_or(Cursor { next: None });
        Ok(cursor.next.map(Cow::into_owned))
    }
}

/// Tools as an upstream lists them, each name once.
fn tools(items: Vec<Value>, label: &str) -> Vec<Tool> {
    let mut names = HashSet::new();
    let mut tools = Vec::with_capacity(items.len());
    for item in items {
        let Some(tool) = tool(item) else {
            tracing::warn!(toolset = %label, "a tool without a name is left out");
            continue;
        };
        if names.insert(tool.name.clone()) {
            tools.push(tool);
        } else {
            tracing::warn!(toolset = %label, "a second tool of the name '{}' is left out", tool.name);
        }
    }
    tools
}

fn tool(mut item: Value) -> Option<Tool> {
    let mut take = |key: &str| item.get_mut(key).map(Value::take).filter(|value| !value.is_null());
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let name = text(take("name")).filter(|name| !name.is_empty())?;
    Some(Tool {
        name: name.into(),
        title: text(take("title")),
        description: text(take("description")).unwrap_or_default(),
        input_schema: take("inputSchema")
            .filter(Value::is_object)
            .unwrap_or_else(|| json!({"type": "object"})),
        output_schema: take("outputSchema").filter(Value::is_object),
        annotations: take("annotations").filter(Value::is_object),
        meta: take("_meta").filter(Value::is_object),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages by their cursors; the first has none.
    struct FixedPages(Vec<(&'static str, &'static str)>);

    impl Pages for FixedPages {
        async fn page(&self, _: &'static str, cursor: Option<String>) -> Result<String, UpstreamError> {
            let cursor = cursor.unwrap_or_default();
            let page = self.0.iter().find(|(at, _)| *at == cursor);
            page.map(|(_, text)| (*text).to_owned()).ok_or_else(|| {
                UpstreamError::Refused(RequestError::new(RpcCode::InvalidParams, "no such cursor"))
            })
        }
    }

    async fn names(pages: Vec<(&'static str, &'static str)>) -> Result<Vec<String>, UpstreamError> {
        let offered = ListCapabilities { tools: true, ..ListCapabilities::default() };
        let lists = Lists::read(&FixedPages(pages), offered, "test").await?;
        Ok(lists.tools.iter().map(|tool| tool.name.to_string()).collect())
    }

    #[tokio::test]
    async fn pages_are_followed_and_a_circle_is_left() {
        let first = ("", r#"{"tools":[{"name":"a"}],"nextCursor":"2"}"#);
        assert_eq!(
            names(vec![first, ("2", r#"{"tools":[{"name":"b"}],"nextCursor":null}"#)]).await.unwrap(),
            ["a", "b"]
        );
        let circle = ("2", r#"{"tools":[{"name":"b"}],"nextCursor":"2"}"#);
        assert_eq!(names(vec![first, circle]).await.unwrap(), ["a", "b"]);
        assert!(names(vec![first]).await.is_err());
    }

    #[tokio::test]
    async fn bad_items_hide_no_others() {
        let page = r#"{"tools":[{"name":"a"},5,{"title":"no name"},{"name":"a"},{"name":"b","inputSchema":7,
            "description":null,"annotations":{"readOnlyHint":true,"later":1}}]}"#;
        assert_eq!(names(vec![("", page)]).await.unwrap(), ["a", "b"]);
        for page in ["[]", "{}", r#"{"tools":{}}"#] {
            assert!(names(vec![("", page)]).await.is_err(), "{page}");
        }
    }

    #[test]
    fn a_tool_keeps_all_that_we_have_a_place_for() {
        let item = json!({
            "name": "n", "title": "t", "description": "d", "inputSchema": {"type": "object", "x-any": [1]},
            "outputSchema": {"type": "object", "x-fastmcp-wrap-result": true},
            "annotations": {"readOnlyHint": true, "later": 1}, "_meta": {"k": 1},
        });
        let mut written: Value = serde_json::from_str(tool(item.clone()).unwrap().for_mcp().get()).unwrap();
        assert_eq!(written, item);
        written = serde_json::from_str(tool(json!({"name": "n"})).unwrap().for_mcp().get()).unwrap();
        assert_eq!(written, json!({"name": "n", "description": "", "inputSchema": {"type": "object"}}));
    }
}
