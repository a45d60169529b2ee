//! Doc comments as text.

use syn::{Attribute, Expr, ExprLit, Lit, Meta};

/// Whether this is a doc comment, or `#[doc = ..]`.
pub(crate) fn is_doc(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc")
}

/// The text of the doc comments among these attributes: lines joined as written, less common indentation and blank ends.
pub(crate) fn text(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|attribute| is_doc(attribute)) {
        let Meta::NameValue(pair) = &attribute.meta else { continue };
        let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &pair.value else { continue };
        // `split`, unlike `lines`, keeps the one empty line of an empty comment.
        lines.extend(line.value().split('\n').map(|line| line.trim_end().to_owned()));
    }
    let indent = lines.iter().filter(|line| !line.is_empty()).map(|line| line.len() - line.trim_start().len()).min();
    let indent = indent.unwrap_or(0);
    let text = lines.iter().map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n");
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[test]
    fn lines_are_joined_and_trimmed() {
        let function: syn::ItemFn = parse_quote! {
            /// Take a screenshot.
            ///
            ///   Indented.
            #[inline]
            #[doc = " The last line. "]
            fn screenshot() {}
        };
        assert_eq!(text(&function.attrs), "Take a screenshot.\n\n  Indented.\nThe last line.");
        assert_eq!(text(&[]), "");
    }
}
