/// Search the web.
#[tool(name = "web:search", config = "apis.websearch")]
async fn search(config: &WebSearchConfig, query: String, #[default = 10] max_results: u32) -> Result<SearchResults> {
    config.search(query, max_results).await
}

/// Send a message back.
#[tool(name = "util:echo")]
#[cfg(unix)]
pub async fn echo(message: String) -> Result<Echo> {
    Ok(Echo { message })
}
