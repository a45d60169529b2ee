# Runs code that comes as lines of JSON on standard input, and reports each end on a fifo, so that the output is the
# code's alone. The value of a last expression is reported too.
def main():
    import ast, json, linecache, os, signal, sys, traceback

    fifo = sys.argv[1]
    # The code's own standard input is empty; what comes next is not for it, nor for what it starts.
    requests = os.fdopen(os.dup(0), "rb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    sys.stdin = open(0, closefd=False)
    sys.argv = ["main.py"]
    sys.path[0] = ""
    # As in a program of its own: nothing of this one is among its names.
    names = sys.modules["__main__"].__dict__
    for name in ("main", "__file__", "__cached__"):
        names.pop(name, None)
    cells, driver = 0, os.getpid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in requests:
        request = json.loads(line)
        cells += 1
        outcome = {"nonce": request["nonce"], "ok": True}
        file = "main.py" if cells <= 2 else "cell-%d.py" % (cells - 1)
        code = request["code"]
        linecache.cache[file] = (len(code), None, code.splitlines(True), file)
        end = None
        # With no more code to come this is a program like any other, which ends when its threads have.
        afterwards = signal.default_int_handler if request["last"] else signal.SIG_IGN
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tree = ast.parse(code, file)
            last = None
            if tree.body and isinstance(tree.body[-1], ast.Expr):
                last = ast.Expression(tree.body.pop().value)
            exec(compile(tree, file, "exec"), names)
            if last is not None:
                value = eval(compile(last, file, "eval"), names)
                if value is not None:
                    names["_"] = value
                    outcome["result"] = repr(value)[:100000]
        except SystemExit as exit:
            end = exit
        except BaseException as error:
            outcome["ok"] = False
            # Without this driver's own frame.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            traceback.print_exception(type(error), error, error.__traceback__)
        finally:
            signal.signal(signal.SIGINT, afterwards)
        if os.getpid() != driver:
            # A copy that the code has forked and that came back here: there is one who takes the next requests.
            sys.stdout.flush()
            os._exit(0)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        if end is not None:
            raise end
        with open(fifo, "w") as report:
            report.write(json.dumps(outcome) + "\n")


main()
