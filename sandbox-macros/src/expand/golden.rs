//! `tests/golden/*.rs` against `*.expanded.rs`, pretty-printed. `UPDATE_GOLDEN=1` accepts what changed.

use std::{env, fs, path::Path};

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, File, Item, Meta};

type Macro = fn(TokenStream, &TokenStream) -> TokenStream;

/// The macro that an attribute calls, and its options.
fn called(attribute: &Attribute) -> Option<(Macro, TokenStream)> {
    let name = attribute.path().get_ident()?.to_string();
    let expand: Macro = match name.as_str() {
        "backend" => super::backend,
        "tools" => |options, item: &_| super::tools(&options, item),
        "tool" => super::tool,
        _ => return None,
    };
    let options = if let Meta::List(list) = &attribute.meta { list.tokens.clone() } else { TokenStream::new() };
    Some((expand, options))
}

fn expand_item(mut item: Item) -> TokenStream {
    let attributes = match &mut item {
        Item::Impl(item) => &mut item.attrs,
        Item::Fn(item) => &mut item.attrs,
        _ => return item.into_token_stream(),
    };
    let found = attributes.iter().enumerate().find_map(|(index, attribute)| Some((index, called(attribute)?)));
    let Some((index, (expand, options))) = found else { return item.into_token_stream() };
    attributes.remove(index);
    expand(options, &item.into_token_stream())
}

/// The expansion of a whole file.
fn expand_file(source: &str) -> String {
    let items = syn::parse_file(source).unwrap().items.into_iter().map(expand_item);
    let tokens = quote!(#(#items)*);
    prettyplease::unparse(&syn::parse2::<File>(tokens).unwrap())
}

#[test]
fn expansions_are_as_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(stem) = name.strip_suffix(".rs").filter(|stem| !stem.ends_with(".expanded")) else { continue };
        let accepted = folder.join(format!("{stem}.expanded.rs"));
        let expanded = expand_file(&fs::read_to_string(&path).unwrap());
        if update {
            fs::write(&accepted, &expanded).unwrap();
        }
        let expected = fs::read_to_string(&accepted).unwrap_or_default();
        assert!(
            expanded == expected,
            "{name} expands to\n{expanded}\nwhich is not {}; UPDATE_GOLDEN=1 accepts it",
            accepted.display()
        );
        seen += 1;
    }
    assert!(seen > 0, "no golden files in {}", folder.display());
}
