#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

struct Vm {
    size: usize,
}

#[backend(name = "vm")]
impl Vm {

}

fn main() {}
