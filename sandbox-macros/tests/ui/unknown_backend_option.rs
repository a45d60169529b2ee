#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

#[derive(Default)]
struct Vm;

#[backend(name = "vm", descripton = "A machine.")]
impl Vm {

}

fn main() {}
