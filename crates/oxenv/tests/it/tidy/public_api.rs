//! What each library crate offers to others, held by a file per crate: `tests/public_api.txt`.
//!
//! `UPDATE_EXPECT=1 cargo nextest run -p oxenv public_api` writes the files anew.
//! Invariant: whatever the root of a crate leads to is listed with its signature, as its source spells it.

use std::collections::BTreeMap;

use expect_test::expect_file;
use syn::Visibility::Public;
use syn::spanned::Spanned;

use super::modules::{Crate, ModuleIndex, Target, defined_name};
use super::root;

const LIBRARIES: [&str; 7] = [
    "oxenv-client",
    "oxenv-core",
    "oxenv-providers",
    "oxenv-server",
    "oxenv-store",
    "oxenv-upstream",
    "oxenv-wire",
];

#[test]
fn the_public_api_is_what_its_files_say() {
    for library in LIBRARIES {
        let folder = root().join("crates").join(library);
        let read = Crate::read(&folder.join("src/lib.rs"));
        let mut listing =
            Listing { implementations: implementations(&read), read: &read, text: String::new() };
        listing.add_module(0, &library.replace('-', "_"));
        expect_file![folder.join("tests/public_api.txt")].assert_eq(&listing.text);
    }
}

/// The implementations for each type of the crate, by the module that defines the type and its name there.
type Implementations<'a> = BTreeMap<(ModuleIndex, String), Vec<&'a syn::ItemImpl>>;

fn implementations(read: &Crate) -> Implementations<'_> {
    let mut implementations = Implementations::new();
    for (index, module) in read.modules.iter().enumerate() {
        for item in &module.items {
            let syn::Item::Impl(implementation) = item else { continue };
            let syn::Type::Path(implementing) = &*implementation.self_ty else { continue };
            if let Some(Target::Item(module, name)) = read.resolve(index, &names(&implementing.path)) {
                implementations.entry((module, name)).or_default().push(implementation);
            }
        }
    }
    implementations
}

struct Listing<'a> {
    read: &'a Crate,
    implementations: Implementations<'a>,
    text: String,
}

impl Listing<'_> {
    /// Adds what a module offers, under its path, then its public modules.
    fn add_module(&mut self, index: ModuleIndex, path: &str) {
        let mut entries = Vec::new();
        let mut modules = BTreeMap::new();
        self.collect(index, &mut entries, &mut modules);
        entries.sort();
        let lines: String = entries.into_iter().map(|(_, text)| text).collect();
        self.text += &format!("{path}\n{lines}");
        for (name, module) in modules {
            self.add_module(module, &format!("{path}::{name}"));
        }
    }

    /// Collects the public items of a module, each by its name, and its public modules.
    fn collect(
        &self,
        index: ModuleIndex,
        entries: &mut Vec<(String, String)>,
        modules: &mut BTreeMap<String, ModuleIndex>,
    ) {
        let module = &self.read.modules[index];
        for item in &module.items {
            match item {
                syn::Item::Mod(inner) if matches!(inner.vis, Public(_)) => {
                    let name = inner.ident.to_string();
                    modules.insert(name.clone(), module.children[&name]);
                }
                item if is_public(item) => {
                    let name = defined_name(item).unwrap();
                    entries.push((name.clone(), self.item(index, item, &name)));
                }
                _ => {}
            }
        }
        for import in module.imports.iter().filter(|import| matches!(import.visibility, Public(_))) {
            match (self.read.resolve(index, &import.path), &import.name) {
                (Some(Target::Module(target)), Some(name)) => _ = modules.insert(name.clone(), target),
                (Some(Target::Module(target)), None) => self.collect(target, entries, modules),
                (Some(Target::Item(target, defined)), name) => {
                    let is_it = |item: &&syn::Item| defined_name(item).as_ref() == Some(&defined);
                    let name = name.as_ref().unwrap_or(&defined);
                    for item in self.read.modules[target].items.iter().filter(is_it) {
                        entries.push((name.clone(), self.item(target, item, name)));
                    }
                }
                (None, name) => {
                    let name = name.as_deref().unwrap_or("*");
                    let path = import.path.join("::");
                    entries.push((name.to_owned(), format!("  {name} = {path}\n")));
                }
            }
        }
    }

    /// An item under the name that others reach it by, with its parts.
    fn item(&self, module: ModuleIndex, item: &syn::Item, name: &str) -> String {
        let mut parts = Vec::new();
        let (attributes, head) = match item {
            syn::Item::Const(item) => (&item.attrs, format!("const {name}: {}", source(&item.ty))),
            syn::Item::Static(item) => (&item.attrs, format!("static {name}: {}", source(&item.ty))),
            syn::Item::Fn(item) => (&item.attrs, source(&item.sig)),
            syn::Item::Type(item) => {
                (&item.attrs, format!("type {name}{} = {}", source(&item.generics), source(&item.ty)))
            }
            syn::Item::Struct(item) => {
                parts.extend(struct_fields(&item.fields));
                (&item.attrs, format!("struct {name}{}", source(&item.generics)))
            }
            syn::Item::Enum(item) => {
                parts.extend(item.variants.iter().map(variant));
                (&item.attrs, format!("enum {name}{}", source(&item.generics)))
            }
            syn::Item::Trait(item) => {
                parts.extend(item.items.iter().map(trait_item));
                let bounds: Vec<String> = item.supertraits.iter().map(source).collect();
                let bounds =
                    if bounds.is_empty() { String::new() } else { format!(": {}", bounds.join(" + ")) };
                (&item.attrs, format!("trait {name}{}{bounds}", source(&item.generics)))
            }
            other => panic!("{name} is of a kind that is not listed: {}", source(other)),
        };
        let key = (module, defined_name(item).unwrap());
        for implementation in self.implementations.get(&key).into_iter().flatten() {
            self.add_implementation(module, implementation, &mut parts);
        }
        let lines: String = parts.iter().map(|part| format!("    {part}\n")).collect();
        format!("  {}{head}\n{lines}", marks(attributes))
    }

    fn add_implementation(&self, module: ModuleIndex, code: &syn::ItemImpl, parts: &mut Vec<String>) {
        if let Some((implemented, _)) = &code.trait_ {
            let target = self.read.resolve(module, &names(implemented));
            let is_private = match target {
                Some(Target::Item(defining, name)) => {
                    let items = &self.read.modules[defining].items;
                    items.iter().any(|item| defined_name(item).as_ref() == Some(&name) && !is_public(item))
                }
                _ => false,
            };
            parts.extend((!is_private).then(|| format!("impl {}", source(implemented))));
            return;
        }
        for item in &code.items {
            match item {
                syn::ImplItem::Fn(item) if matches!(item.vis, Public(_)) => {
                    parts.push(format!("{}{}", marks(&item.attrs), source(&item.sig)));
                }
                syn::ImplItem::Const(item) if matches!(item.vis, Public(_)) => {
                    parts.push(format!("const {}: {}", item.ident, source(&item.ty)));
                }
                _ => {}
            }
        }
    }
}

/// The public fields, and two dots if there are others.
fn struct_fields(fields: &syn::Fields) -> Vec<String> {
    let is_public = |field: &&syn::Field| matches!(field.vis, Public(_));
    let mut lines: Vec<String> = fields.iter().filter(is_public).map(field).collect();
    lines.extend((lines.len() < fields.len()).then(|| "..".to_owned()));
    lines
}

fn field(field: &syn::Field) -> String {
    match &field.ident {
        Some(name) => format!("{name}: {}", source(&field.ty)),
        None => source(&field.ty),
    }
}

fn variant(variant: &syn::Variant) -> String {
    let fields: Vec<String> = variant.fields.iter().map(field).collect();
    let fields = match &variant.fields {
        syn::Fields::Named(_) => format!(" {{ {} }}", fields.join(", ")),
        syn::Fields::Unnamed(_) => format!("({})", fields.join(", ")),
        syn::Fields::Unit => String::new(),
    };
    format!("{}{}{fields}", marks(&variant.attrs), variant.ident)
}

fn trait_item(item: &syn::TraitItem) -> String {
    match item {
        syn::TraitItem::Fn(item) => {
            let provided = if item.default.is_some() { " { … }" } else { "" };
            format!("{}{}{provided}", marks(&item.attrs), source(&item.sig))
        }
        syn::TraitItem::Const(item) => format!("const {}: {}", item.ident, source(&item.ty)),
        syn::TraitItem::Type(item) => {
            let bounds: Vec<String> = item.bounds.iter().map(source).collect();
            format!("type {}: {}", item.ident, bounds.join(" + "))
        }
        other => source(other),
    }
}

/// The attributes that others notice.
fn marks(attributes: &[syn::Attribute]) -> String {
    const NOTICED: [&str; 5] = ["cfg", "default", "derive", "deprecated", "non_exhaustive"];
    let noticed = attributes.iter().filter(|attribute| {
        NOTICED.iter().any(|name| attribute.path().is_ident(name)) || source(attribute) == "#[doc(hidden)]"
    });
    noticed.map(|attribute| format!("{} ", source(attribute))).collect()
}

fn is_public(item: &syn::Item) -> bool {
    let visibility = match item {
        syn::Item::Const(item) => &item.vis,
        syn::Item::Enum(item) => &item.vis,
        syn::Item::Fn(item) => &item.vis,
        syn::Item::Static(item) => &item.vis,
        syn::Item::Struct(item) => &item.vis,
        syn::Item::Trait(item) => &item.vis,
        syn::Item::Type(item) => &item.vis,
        syn::Item::Union(item) => &item.vis,
        _ => return false,
    };
    matches!(visibility, Public(_))
}

fn names(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

/// The source of a piece of code, on one line.
fn source(code: &impl Spanned) -> String {
    let text = code.span().source_text().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    line.replace("( ", "(").replace(", )", ")").replace("< ", "<").replace(", >", ">")
}
