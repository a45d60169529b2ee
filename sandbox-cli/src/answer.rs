//! Answers of tools, and refusals of servers, on the command line.

use std::process::ExitCode;

use sandbox_client::{
    ClientError,
    types::{Envelope, ErrorCode},
};

use crate::{FAILED, NOT_RUN, args::Server, print};

/// Prints the result of a tool, or the whole answer, and says how to exit.
pub(crate) fn show(answer: &Envelope, json: bool, server: &Server) -> ExitCode {
    let printed = match &answer.data {
        _ if json => print::json(&serde_json::to_value(answer).unwrap_or_default()),
        Some(data) => print::json(data),
        None => Ok(()),
    };
    let failed = if answer.meta.executed { FAILED } else { NOT_RUN };
    let code = if answer.success {
        ExitCode::SUCCESS
    } else if json {
        ExitCode::from(failed)
    } else {
        print::errors(&failure(answer, server), failed)
    };
    print::exit(printed, code)
}

/// Says why a server did not do what it was asked for, and how to exit.
pub(crate) fn error(error: &ClientError, server: &Server) -> ExitCode {
    match error.answer() {
        Some(refusal) => print::errors(&failure(refusal, server), FAILED),
        None => print::errors(error, NOT_RUN),
    }
}

/// A failure in the words of the command line.
pub(crate) fn failure(answer: &Envelope, server: &Server) -> String {
    match &server.token {
        _ if answer.code != ErrorCode::UNAUTHENTICATED => format!("{}: {}", answer.code, answer.message),
        None => format!("{}: the server wants a token: give it with --token or SANDBOX_TOKEN", answer.code),
        Some(_) => format!("{}: the server does not know the token of --token or SANDBOX_TOKEN", answer.code),
    }
}
