//! The mistakes of one block, collected, so that all of them are reported at once.

use proc_macro2::TokenStream;
use quote::ToTokens;

/// Mistakes found so far, each on its own token.
#[derive(Default)]
pub(crate) struct Errors(Vec<syn::Error>);

impl Errors {
    /// Adds a mistake on these tokens: what was expected, what was found, what to write.
    pub(crate) fn on(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.0.push(syn::Error::new_spanned(tokens, message));
    }

    /// Adds mistakes that a parser found.
    pub(crate) fn push(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    /// The value of a parser, or its mistake noted.
    pub(crate) fn ok<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// `compile_error!` for each.
    pub(crate) fn into_tokens(self) -> TokenStream {
        self.0.iter().map(syn::Error::to_compile_error).collect()
    }

    /// The messages, for unit tests.
    #[cfg(test)]
    pub(crate) fn messages(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// Source as a person would write it: the compiler's printer puts a space around every token.
pub(crate) fn spelled(tokens: impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (wide, narrow) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" ::", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" ,", ","),
        (" : ", ": "),
        (" ;", ";"),
        ("( ", "("),
        (" )", ")"),
        ("[ ", "["),
        (" ]", "]"),
    ] {
        text = text.replace(wide, narrow);
    }
    text
}

/// `; did you mean ..?` and the list of what is known, for a name that is not.
pub(crate) fn suggestion(found: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
    let listed = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match nearest {
        Some((_, name)) => format!("did you mean `{name}`? Known are {listed}"),
        None => format!("known are {listed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_spelled_as_written() {
        let ty: syn::Type = syn::parse_quote!(Option<&mut [std::sync::Arc<Self>; 3]>);
        assert_eq!(spelled(ty), "Option<&mut [std::sync::Arc<Self>; 3]>");
    }

    #[test]
    fn the_nearest_known_name_comes_first() {
        assert_eq!(suggestion("tiemout", &["name", "timeout"]), "did you mean `timeout`? Known are `name`, `timeout`");
        assert_eq!(suggestion("zebra", &["name"]), "known are `name`");
    }
}
