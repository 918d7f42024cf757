//! The modules of a crate as its sources declare them, and the file that a path leads to.
//!
//! Entry point: [`Crate::read`]. Unit tests are left out. Names are followed through imports and re-exports
//! to the module that defines them; what macros or other crates define is not found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The modules of one target, its root first.
pub(super) struct Crate {
    pub(super) modules: Vec<Module>,
}

/// Where a module stands among the modules of its crate.
pub(super) type ModuleIndex = usize;

/// One module, of a file or inline.
pub(super) struct Module {
    pub(super) file: PathBuf,
    pub(super) items: Vec<syn::Item>,
    pub(super) imports: Vec<Import>,
    pub(super) children: BTreeMap<String, ModuleIndex>,
    parent: ModuleIndex,
    defined: BTreeSet<String>,
}

/// One name that a `use` brings into a module, or all names of another module.
pub(super) struct Import {
    /// The name in the importing module; `None` for a glob.
    pub(super) name: Option<String>,
    pub(super) path: Vec<String>,
    pub(super) visibility: syn::Visibility,
}

/// What a path leads to.
pub(super) enum Target {
    /// A module itself.
    Module(ModuleIndex),
    /// Something that this module defines, by its name there.
    Item(ModuleIndex, String),
}

impl Crate {
    /// Reads the target whose root is this file.
    pub(super) fn read(root: &Path) -> Self {
        let mut read = Self { modules: Vec::new() };
        let items = parse(root).items;
        read.add(root, root.parent().unwrap(), 0, items);
        read
    }

    /// Adds a module whose children's files are in `folder`, and these.
    fn add(
        &mut self,
        file: &Path,
        folder: &Path,
        parent: ModuleIndex,
        mut items: Vec<syn::Item>,
    ) -> ModuleIndex {
        items.retain(|item| !is_unit_test(attributes(item)));
        let index = self.modules.len();
        let defined = items.iter().filter_map(defined_name).collect();
        let mut imports = Vec::new();
        for item in &items {
            if let syn::Item::Use(import) = item {
                add_imports(&import.tree, &mut Vec::new(), &import.vis, &mut imports);
            }
        }
        let declared: Vec<syn::ItemMod> = items
            .iter()
            .filter_map(|item| if let syn::Item::Mod(module) = item { Some(module.clone()) } else { None })
            .collect();
        let children = BTreeMap::new();
        self.modules.push(Module { file: file.to_owned(), items, imports, parent, children, defined });
        for module in declared {
            let name = module.ident.to_string();
            let child_folder = folder.join(&name);
            let child = match module.content {
                Some((_, items)) => self.add(file, &child_folder, index, items),
                None => {
                    let file = module_file(&module.attrs, file, folder, &name);
                    let items = parse(&file).items;
                    self.add(&file, &child_folder, index, items)
                }
            };
            self.modules[index].children.insert(name, child);
        }
        index
    }

    /// The file that declares a module.
    pub(super) fn declaring_file(&self, module: ModuleIndex) -> &Path {
        &self.modules[self.modules[module].parent].file
    }

    /// What a path that stands in a module leads to within this crate.
    pub(super) fn resolve(&self, from: ModuleIndex, path: &[String]) -> Option<Target> {
        self.resolve_unless(from, path, &mut BTreeSet::new())
    }

    /// As [`Self::resolve`], without the imports that are being followed already.
    fn resolve_unless(
        &self,
        from: ModuleIndex,
        path: &[String],
        followed: &mut BTreeSet<(ModuleIndex, String)>,
    ) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let next = match first.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(from),
            "super" => Target::Module(self.modules[from].parent),
            name => self.find(from, name, rest.is_empty(), followed)?,
        };
        match next {
            Target::Module(_) if rest.is_empty() => Some(next),
            Target::Module(module) => self.resolve_unless(module, rest, followed),
            // A variant, a method or the like of what was found.
            Target::Item(..) => Some(next),
        }
    }

    /// Finds a name in one module. A last name is rather an item than a module, any other rather a module.
    fn find(
        &self,
        module: ModuleIndex,
        name: &str,
        is_last: bool,
        followed: &mut BTreeSet<(ModuleIndex, String)>,
    ) -> Option<Target> {
        let Module { children, defined, imports, .. } = &self.modules[module];
        let child = children.get(name).map(|child| Target::Module(*child));
        if !is_last && child.is_some() {
            return child;
        }
        if defined.contains(name) {
            return Some(Target::Item(module, name.to_owned()));
        }
        if !followed.insert((module, name.to_owned())) {
            return child;
        }
        let mut found = None;
        for import in imports {
            let path = match &import.name {
                Some(imported) if imported == name => import.path.clone(),
                Some(_) => continue,
                None => [import.path.as_slice(), &[name.to_owned()]].concat(),
            };
            match self.resolve_unless(module, &path, followed) {
                Some(item @ Target::Item(..)) => found = Some(item),
                other => found = found.or(other),
            }
        }
        followed.remove(&(module, name.to_owned()));
        found.or(child)
    }
}

impl Module {
    /// All paths of its code outside of imports and inner modules, those in the arguments of macros too.
    pub(super) fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Paths(Vec::new());
        for item in self.items.iter().filter(|item| !matches!(item, syn::Item::Use(_) | syn::Item::Mod(_))) {
            paths.visit_item(item);
        }
        paths.0
    }
}

struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        add_token_paths(call.tokens.clone(), &mut self.0);
        visit::visit_macro(self, call);
    }

    /// An import in the body of a function.
    fn visit_item_use(&mut self, import: &'ast syn::ItemUse) {
        let mut imports = Vec::new();
        add_imports(&import.tree, &mut Vec::new(), &import.vis, &mut imports);
        self.0.extend(imports.into_iter().map(|import| import.path));
    }
}

/// The paths in the tokens of a macro's call.
fn add_token_paths(tokens: TokenStream, paths: &mut Vec<Vec<String>>) {
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(name) => {
                if colons < 2 {
                    paths.extend((!path.is_empty()).then(|| std::mem::take(&mut path)));
                }
                path.push(name.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            other => {
                paths.extend((!path.is_empty()).then(|| std::mem::take(&mut path)));
                colons = 0;
                if let TokenTree::Group(group) = other {
                    add_token_paths(group.stream(), paths);
                }
            }
        }
    }
    paths.extend((!path.is_empty()).then_some(path));
}

fn add_imports(
    tree: &syn::UseTree,
    above: &mut Vec<String>,
    visibility: &syn::Visibility,
    imports: &mut Vec<Import>,
) {
    let mut add = |name: Option<String>, path: Vec<String>| {
        imports.push(Import { name, path, visibility: visibility.clone() });
    };
    match tree {
        syn::UseTree::Path(path) => {
            above.push(path.ident.to_string());
            add_imports(&path.tree, above, visibility, imports);
            above.pop();
        }
        syn::UseTree::Name(name) if name.ident == "self" => add(above.last().cloned(), above.clone()),
        syn::UseTree::Name(name) => {
            let name = name.ident.to_string();
            add(Some(name.clone()), [above.as_slice(), &[name]].concat());
        }
        syn::UseTree::Rename(rename) => {
            let path = [above.as_slice(), &[rename.ident.to_string()]].concat();
            add(Some(rename.rename.to_string()), path);
        }
        syn::UseTree::Glob(_) => add(None, above.clone()),
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                add_imports(tree, above, visibility, imports);
            }
        }
    }
}

fn parse(file: &Path) -> syn::File {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The file of a module that a file declares without its body.
fn module_file(attributes: &[syn::Attribute], declaring: &Path, folder: &Path, name: &str) -> PathBuf {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("path")) {
        if let syn::Meta::NameValue(syn::MetaNameValue { value: syn::Expr::Lit(literal), .. }) =
            &attribute.meta
            && let syn::Lit::Str(path) = &literal.lit
        {
            return declaring.parent().unwrap().join(path.value());
        }
    }
    let beside = folder.join(format!("{name}.rs"));
    if beside.exists() { beside } else { folder.join(name).join("mod.rs") }
}

fn is_unit_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// The name that an item gives to its module. Modules and imports are kept beside these.
pub(super) fn defined_name(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::TraitAlias(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
