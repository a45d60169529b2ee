#![allow(unused_variables)]

use sandbox_runtime::prelude::*;

struct Vm;

#[backend(name = "vm")]
impl Drop for Vm {
    fn drop(&mut self) {}
}

fn main() {}
