#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[backend(name = "vm")]
struct Vm;

fn main() {}
