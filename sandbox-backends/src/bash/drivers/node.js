// Runs code that comes as lines of JSON on standard input, and reports each end on a fifo, so that the output is the
// code's alone. The value of the last expression is reported too; one that is a promise is waited for.
"use strict";
const fs = require("node:fs");
const module_ = require("node:module");
const util = require("node:util");
const vm = require("node:vm");

const fifo = process.argv[2];
process.argv = [process.argv[0], "main.js"];
const empty = fs.openSync("/dev/null", "r");
const own = module_.createRequire(process.cwd() + "/main.js");
Object.assign(globalThis, { require: own, module: { exports: {} }, exports: {} });
let cells = 0;
let buffered = Buffer.alloc(0);

// Standard input is read in this thread, piece by piece, only when nothing runs: what the code starts does not get it.
function next() {
  for (;;) {
    const end = buffered.indexOf(10);
    if (end >= 0) {
      const line = buffered.subarray(0, end).toString();
      buffered = buffered.subarray(end + 1);
      return run(JSON.parse(line));
    }
    const piece = Buffer.alloc(65536);
    let length;
    try {
      length = fs.readSync(0, piece);
    } catch (error) {
      if (error.code === "EAGAIN" || error.code === "EINTR") return setTimeout(next, 2);
      throw error;
    }
    if (length === 0) return;
    buffered = Buffer.concat([buffered, piece.subarray(0, length)]);
  }
}

function show(error) {
  const text = error instanceof Error && error.stack ? error.stack : `Uncaught ${util.inspect(error)}`;
  fs.writeSync(2, text.split("\n").filter((line) => !/node:vm|\.sbx\/|node:internal/.test(line)).join("\n") + "\n");
}

async function run({ nonce, code, last }) {
  if (last) behaveAsAProgram();
  cells += 1;
  const outcome = { nonce, ok: true };
  const filename = cells <= 2 ? "main.js" : `cell-${cells - 1}.js`;
  let interrupt;
  const interrupted = new Promise((_, reject) => {
    interrupt = () => reject(new Error("interrupted"));
  });
  interrupted.catch(() => {});
  try {
    const script = new vm.Script(code, {
      filename,
      importModuleDynamically: vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    });
    let value = script.runInThisContext({ breakOnSigint: true });
    process.on("SIGINT", interrupt);
    if (value && typeof value.then === "function") value = await Promise.race([value, interrupted]);
    if (value !== undefined) outcome.result = util.inspect(value, { depth: 4, maxStringLength: 50000 }).slice(0, 100000);
  } catch (error) {
    outcome.ok = false;
    show(error);
  } finally {
    process.off("SIGINT", interrupt);
  }
  fs.writeFileSync(fifo, JSON.stringify(outcome) + "\n", { flag: "a" });
  setImmediate(next);
}

// No more code comes: this is a program like any other, which ends when nothing is left to wait for.
function behaveAsAProgram() {
  process.off("SIGINT", ignore);
  process.off("uncaughtException", show);
  process.off("unhandledRejection", show);
}

function ignore() {}
process.on("SIGINT", ignore);
process.on("uncaughtException", show);
process.on("unhandledRejection", show);
next();
