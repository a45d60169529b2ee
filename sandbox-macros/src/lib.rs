//! placeholder until the crate lands
use proc_macro::TokenStream;
/// placeholder
#[proc_macro_attribute]
pub fn backend(_: TokenStream, item: TokenStream) -> TokenStream { item }
/// placeholder
#[proc_macro_attribute]
pub fn tools(_: TokenStream, item: TokenStream) -> TokenStream { item }
/// placeholder
#[proc_macro_attribute]
pub fn tool(_: TokenStream, item: TokenStream) -> TokenStream { item }
