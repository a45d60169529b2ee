//! What stands in the attributes: the options of `#[backend(..)]`, `#[tool(..)]`, and the value of `#[default ..]`.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, Expr, ExprArray, ExprLit, Ident, Lit, LitStr, Meta, Token,
    ext::IdentExt,
    parse::{ParseStream, Parser},
};

use crate::errors::{Errors, spelled, suggestion};

/// Options of `#[backend(..)]`.
#[derive(Default)]
pub(crate) struct BackendOptions {
    /// `name = "vm"`.
    pub(crate) name: Option<LitStr>,
    /// `config = "apis.key"`.
    pub(crate) config: Option<LitStr>,
    /// `version = "1.2.3"`.
    pub(crate) version: Option<LitStr>,
}

/// Options of `#[tool(..)]`.
#[derive(Default)]
pub(crate) struct ToolOptions {
    /// `name = "click"`, of a free tool `name = "web:search"`.
    pub(crate) name: Option<LitStr>,
    /// `config = "apis.key"`, of a free tool.
    pub(crate) config: Option<LitStr>,
    /// `group = "vision"`.
    pub(crate) group: Option<LitStr>,
    /// `alias = ["a", "b"]`.
    pub(crate) aliases: Vec<LitStr>,
    /// `timeout = "10s"`, in milliseconds.
    pub(crate) timeout_ms: Option<u64>,
    /// `hidden`.
    pub(crate) hidden: bool,
    /// `idempotent`.
    pub(crate) idempotent: bool,
    /// `read_only`.
    pub(crate) read_only: bool,
    /// `blocking`.
    pub(crate) blocking: bool,
}

const BACKEND_OPTIONS: &[&str] = &["name", "config", "version"];
const TOOL_OPTIONS: &[&str] =
    &["name", "hidden", "timeout", "idempotent", "read_only", "blocking", "alias", "group", "config"];

/// One `key` or `key = value`.
struct Entry {
    key: Ident,
    value: Option<Expr>,
}

/// Splits options at their commas; one that does not parse is noted and the rest still read.
fn entries(tokens: TokenStream, known: &[&str], errors: &mut Errors) -> Vec<Entry> {
    let mut parts: Vec<Vec<TokenTree>> = vec![Vec::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(punct) if punct.as_char() == ',' => parts.push(Vec::new()),
            _ => parts.last_mut().into_iter().for_each(|part| part.push(token.clone())),
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let tokens: TokenStream = part.into_iter().collect();
        let parser = |input: ParseStream<'_>| {
            let key = input.call(Ident::parse_any)?;
            let value = if input.is_empty() {
                None
            } else {
                input.parse::<Token![=]>()?;
                Some(input.parse()?)
            };
            Ok(Entry { key, value })
        };
        let Ok(entry) = parser.parse2(tokens.clone()) else {
            let listed = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            errors.on(
                &tokens,
                format!("expected an option, as `key` or `key = value`, found `{tokens}`; known are {listed}"),
            );
            continue;
        };
        let key = entry.key.to_string();
        if !known.contains(&key.as_str()) {
            errors.on(&entry.key, format!("unknown option `{key}`: {}", suggestion(&key, known)));
        } else if entries.iter().any(|earlier| earlier.key == entry.key) {
            errors.on(&entry.key, format!("option `{key}` stands twice; keep one"));
        } else {
            entries.push(entry);
        }
    }
    entries
}

impl Entry {
    fn text(self, example: &str, errors: &mut Errors) -> Option<LitStr> {
        let key = &self.key;
        match self.value {
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Some(text),
            Some(other) => {
                let found = spelled(&other);
                errors.on(other, format!("`{key}` takes a string, found `{found}`; write `{key} = {example}`"));
                None
            }
            None => {
                errors.on(key, format!("`{key}` needs a value; write `{key} = {example}`"));
                None
            }
        }
    }

    fn flag(self, errors: &mut Errors) -> bool {
        let key = &self.key;
        if let Some(value) = self.value {
            errors.on(value, format!("`{key}` takes no value; write `{key}` alone, or leave it out"));
        }
        true
    }

    fn list(self, errors: &mut Errors) -> Vec<LitStr> {
        let key = &self.key;
        let Some(Expr::Array(ExprArray { elems, .. })) = self.value else {
            let message = format!("`{key}` takes a list of strings; write `{key} = [\"other_name\"]`");
            match self.value {
                Some(value) => errors.on(value, message),
                None => errors.on(key, message),
            }
            return Vec::new();
        };
        let mut texts = Vec::new();
        for element in elems {
            match element {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => texts.push(text),
                other => errors.on(&other, format!("expected a string, found `{}`", spelled(&other))),
            }
        }
        texts
    }
}

impl BackendOptions {
    /// Reads what stands between the parentheses of `#[backend(..)]`.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        for entry in entries(tokens, BACKEND_OPTIONS, errors) {
            match entry.key.to_string().as_str() {
                "name" => options.name = entry.text("\"vm\"", errors),
                "config" => options.config = entry.text("\"apis.key\"", errors),
                _ => options.version = entry.text("\"1.0.0\"", errors),
            }
        }
        options
    }
}

impl ToolOptions {
    /// Reads what stands between the parentheses of `#[tool(..)]`.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        for entry in entries(tokens, TOOL_OPTIONS, errors) {
            match entry.key.to_string().as_str() {
                "name" => options.name = entry.text("\"click\"", errors),
                "config" => options.config = entry.text("\"apis.key\"", errors),
                "group" => options.group = entry.text("\"vision\"", errors),
                "alias" => options.aliases = entry.list(errors),
                "timeout" => {
                    options.timeout_ms = entry.text("\"10s\"", errors).and_then(|text| errors.ok(milliseconds(&text)));
                }
                "hidden" => options.hidden = entry.flag(errors),
                "idempotent" => options.idempotent = entry.flag(errors),
                "read_only" => options.read_only = entry.flag(errors),
                _ => options.blocking = entry.flag(errors),
            }
        }
        options
    }

    /// Reads the attribute `#[tool]` or `#[tool(..)]` itself.
    pub(crate) fn of(attribute: &Attribute, errors: &mut Errors) -> Self {
        match &attribute.meta {
            Meta::Path(_) => Self::default(),
            Meta::List(list) => Self::parse(list.tokens.clone(), errors),
            Meta::NameValue(pair) => {
                errors.on(pair, "expected `#[tool]` or `#[tool(..)]`; write the options in parentheses");
                Self::default()
            }
        }
    }
}

/// Whether an attribute is ours: `#[tool]`, also by a path of this framework.
pub(crate) fn is(attribute: &Attribute, name: &str) -> bool {
    let path = attribute.path();
    path.is_ident(name)
        || path
            .segments
            .first()
            .is_some_and(|first| first.ident == "sandbox_runtime" || first.ident == "sandbox_macros")
            && path.segments.last().is_some_and(|last| last.ident == name)
}

/// Takes the first attribute that is ours out of the list.
pub(crate) fn take(attributes: &mut Vec<Attribute>, name: &str) -> Option<Attribute> {
    attributes.iter().position(|attribute| is(attribute, name)).map(|index| attributes.remove(index))
}

/// `10s`, `500ms`, `2m`, `1h`.
fn milliseconds(text: &LitStr) -> syn::Result<u64> {
    let value = text.value();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at(digits);
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let amount = number.parse::<u64>().ok().filter(|number| *number > 0);
    amount.zip(factor).and_then(|(amount, factor)| amount.checked_mul(factor)).ok_or_else(|| {
        let expected = "expected a whole number above zero with the unit `ms`, `s`, `m` or `h`";
        syn::Error::new_spanned(text, format!("{expected}, found \"{value}\"; write `timeout = \"10s\"`"))
    })
}

/// The JSON text of `#[default = value]` or `#[default(value)]`.
///
/// # Errors
/// The attribute has no value, or it is not JSON.
pub(crate) fn default_json(attribute: &Attribute) -> syn::Result<String> {
    let tokens = match &attribute.meta {
        Meta::Path(path) => {
            return Err(syn::Error::new_spanned(
                path,
                "`#[default]` needs a value; write `#[default = 10]` or `#[default([1, 2])]`",
            ));
        }
        Meta::List(list) => list.tokens.clone(),
        Meta::NameValue(pair) => pair.value.to_token_stream(),
    };
    if tokens.is_empty() {
        return Err(syn::Error::new_spanned(
            &attribute.meta,
            "`#[default(..)]` is empty; write the JSON that the client would send",
        ));
    }
    json.parse2(without_groups(tokens))
}

/// Opens the invisible groups in which the compiler may hand over a value.
fn without_groups(tokens: TokenStream) -> TokenStream {
    let open = |token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::None => without_groups(group.stream()),
        other => other.into(),
    };
    tokens.into_iter().flat_map(open).collect()
}

/// One JSON value.
fn json(input: ParseStream<'_>) -> syn::Result<String> {
    if input.peek(syn::token::Bracket) {
        let content;
        syn::bracketed!(content in input);
        let items = content.parse_terminated(json, Token![,])?;
        return Ok(format!("[{}]", items.into_iter().collect::<Vec<_>>().join(",")));
    }
    if input.peek(syn::token::Brace) {
        let content;
        syn::braced!(content in input);
        let member = |input: ParseStream<'_>| {
            let key: LitStr =
                input.parse().map_err(|error| syn::Error::new(error.span(), "expected a JSON object key in quotes"))?;
            input.parse::<Token![:]>()?;
            Ok(format!("{}:{}", quoted(&key.value()), json(input)?))
        };
        let members = content.parse_terminated(member, Token![,])?;
        return Ok(format!("{{{}}}", members.into_iter().collect::<Vec<_>>().join(",")));
    }
    if input.peek(Token![-]) {
        input.parse::<Token![-]>()?;
        let literal: Lit = input.parse()?;
        return match number(&literal)? {
            Some(text) => Ok(format!("-{text}")),
            None => Err(not_json(&literal)),
        };
    }
    if input.peek(Ident) && input.fork().call(Ident::parse_any)? == "null" {
        input.call(Ident::parse_any)?;
        return Ok("null".to_owned());
    }
    if !input.peek(Lit) {
        let rest: TokenStream = input.parse()?;
        return Err(not_json(&rest));
    }
    let literal: Lit = input.parse()?;
    match &literal {
        Lit::Str(text) => Ok(quoted(&text.value())),
        Lit::Bool(value) => Ok(value.value.to_string()),
        _ => number(&literal)?.ok_or_else(|| not_json(&literal)),
    }
}

/// The JSON text of a number; nothing for another literal.
fn number(literal: &Lit) -> syn::Result<Option<String>> {
    let (digits, suffix) = match literal {
        Lit::Int(int) => (int.base10_digits().to_owned(), int.suffix()),
        Lit::Float(float) => (float.base10_digits().to_owned(), float.suffix()),
        _ => return Ok(None),
    };
    if !suffix.is_empty() {
        let message = format!("JSON numbers have no type; write `{digits}` without `{suffix}`");
        return Err(syn::Error::new_spanned(literal, message));
    }
    Ok(Some(if digits.ends_with('.') { digits + "0" } else { digits }))
}

fn not_json(tokens: &impl ToTokens) -> syn::Error {
    let message = format!(
        "expected JSON, the value that the client would send, found `{}`; write a string, a number, `true`, `false`, `null`, `[..]` or `{{..}}`",
        spelled(tokens)
    );
    syn::Error::new_spanned(tokens, message)
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use quote::quote;
    use syn::parse_quote;

    use super::*;

    fn default(attribute: &Attribute) -> Result<String, String> {
        default_json(attribute).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_become_json() {
        assert_eq!(default(&parse_quote!(#[default = "le\"ft\n"])).unwrap(), r#""le\"ft\n""#);
        assert_eq!(default(&parse_quote!(#[default = 1_000])).unwrap(), "1000");
        assert_eq!(default(&parse_quote!(#[default = -1.5])).unwrap(), "-1.5");
        assert_eq!(default(&parse_quote!(#[default = true])).unwrap(), "true");
        assert_eq!(default(&parse_quote!(#[default = null])).unwrap(), "null");
        assert_eq!(default(&parse_quote!(#[default([1, -2, null, [], "x"])])).unwrap(), r#"[1,-2,null,[],"x"]"#);
        assert_eq!(
            default(&parse_quote!(#[default({"a": {"b": [1.]}, "c": false,})])).unwrap(),
            r#"{"a":{"b":[1.0]},"c":false}"#
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        assert!(default(&parse_quote!(#[default])).unwrap_err().contains("needs a value"));
        assert!(default(&parse_quote!(#[default()])).unwrap_err().contains("is empty"));
        assert!(default(&parse_quote!(#[default = Button::Left])).unwrap_err().contains("found `Button::Left`"));
        assert!(default(&parse_quote!(#[default = 10u32])).unwrap_err().contains("write `10` without `u32`"));
        assert!(default(&parse_quote!(#[default = 'c'])).unwrap_err().contains("expected JSON"));
        assert!(default(&parse_quote!(#[default({a: 1})])).unwrap_err().contains("key in quotes"));
        assert!(default(&parse_quote!(#[default = -"x"])).unwrap_err().contains("expected JSON"));
    }

    #[test]
    fn every_option_is_read() {
        let mut errors = Errors::default();
        let tokens = quote!(
            name = "click",
            hidden,
            timeout = "2m",
            idempotent,
            read_only,
            blocking,
            alias = ["a", "b"],
            group = "g",
            config = "apis.k",
        );
        let options = ToolOptions::parse(tokens, &mut errors);
        assert_eq!(errors.messages(), Vec::<String>::new());
        assert_eq!(options.name.unwrap().value(), "click");
        assert_eq!(options.timeout_ms, Some(120_000));
        assert_eq!(options.aliases.len(), 2);
        assert!(options.hidden && options.idempotent && options.read_only && options.blocking);
    }

    #[test]
    fn every_wrong_option_is_reported() {
        let mut errors = Errors::default();
        ToolOptions::parse(
            quote!(nam = "x", name, group = 1, hidden = true, timeout = "10", alias = "a", group = "g", 3),
            &mut errors,
        );
        let messages = errors.messages();
        let expected = [
            "unknown option `nam`: did you mean `name`?",
            "option `group` stands twice",
            "expected an option, as `key` or `key = value`, found `3`",
            "`name` needs a value",
            "`group` takes a string, found `1`",
            "`hidden` takes no value",
            "found \"10\"; write `timeout = \"10s\"`",
            "`alias` takes a list of strings",
        ];
        assert_eq!(messages.len(), expected.len(), "{messages:#?}");
        for (message, expected) in messages.iter().zip(expected) {
            assert!(message.contains(expected), "{message}\nsays nothing of\n{expected}");
        }
    }
}
