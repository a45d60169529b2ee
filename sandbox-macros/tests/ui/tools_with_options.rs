#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm")]
impl Vm {}

#[tools(name = "vm")]
impl Vm {

}

fn main() {}
