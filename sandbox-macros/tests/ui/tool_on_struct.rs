#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[tool(name = "vm:click")]
struct Click;

fn main() {}
