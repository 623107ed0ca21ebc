"""`make bench-serve`: the review proxy against a bare axum forwarder and LiteLLM's proxy.

The server under test has one core; the stub LLM (50 ms an answer) and the load have the other. Servers take turns, a round
after another, so that ratios are fair on a noisy machine. All forward the same chat completion, one text of its own in each
request; ours and LiteLLM check a token and a budget, ours also keeps its ledger and audit log on the disk.

Prints a line a round and, last, one line of JSON: medians of the rounds' ratios. On a machine that others use, only
ratios mean something.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoannotator"
TOKEN = "sk-bench"
DELAY_MS = 50
# Connections that keep each busy: more only wait longer.
CONNECTIONS = {"ours": 1024, "bare": 1024, "cached": 512, "litellm": 64, "stub": 4096}
# About as long as a review of a product; TEXT is each request's own.
TEXT = (
    "TEXT The parcel came two days late and the box was dented, but the lamp itself is fine. It is brighter than the old one "
    "and the switch feels solid. I would buy it again, though not from this seller."
)
OURS = """\
requests_per_minute = 4294967295
requests_per_minute_per_address = 4294967295
[llm]
url = "{stub}"
model = "bench"
key = "sk-upstream"
concurrency = 4096
queue = 100000
prompt_usd_per_million = 0.15
completion_usd_per_million = 0.60
budget_usd = 1000000.0
task_budget_usd = 1000000.0
client_budget_usd = 1000000.0
[[tokens]]
name = "bench"
sha256 = "{hash}"
scopes = ["admin"]
"""
LITELLM = """\
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: {stub}/v1
      api_key: sk-upstream
      input_cost_per_token: 0.00000015
      output_cost_per_token: 0.0000006
litellm_settings:
  num_retries: 0
  telemetry: false
router_settings:
  provider_budget_config:
    openai:
      budget_limit: 1000000
      time_period: 1d
general_settings:
  master_key: {token}
"""


def pinned(core, command, **options):
    return subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], **options)


def address(process):
    """The first line of a server's output."""
    line = process.stdout.readline().strip().rstrip("/")
    if not line:
        sys.exit(f"{process.args[3]} did not start; its error stands above")
    return line


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(url, body=None, token=TOKEN):
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        return json.load(answer)


def cpu_seconds(process):
    """Of all of its threads so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


class Bench:
    def __init__(self, args, folder, stack):
        self.args, self.folder, self.stack = args, folder, stack
        self.seed, self.requests, self.failed = 0, 0, 0
        self.processes, self.urls, self.bodies = {}, {}, {}

    def start(self, name, command, **options):
        core = self.args.load_core if name == "stub" else self.args.server_core
        process = pinned(core, command, **({"stdout": subprocess.PIPE, "text": True} | options))
        self.stack.callback(stop, process)
        self.processes[name] = process
        return process

    def start_stub(self):
        self.urls["stub"] = address(self.start("stub", [self.args.examples / "bench_stub", DELAY_MS]))

    def start_ours(self):
        config = self.folder / "server.toml"
        hash = hashlib.sha256(TOKEN.encode()).hexdigest()
        config.write_text(OURS.format(stub=self.urls["stub"], hash=hash))
        env = {name: value for name, value in os.environ.items() if not name.startswith("AUTOANNOTATOR_")}
        command = [self.args.binary, "serve", "--port", 0, "--config", config, "--home", self.folder]
        self.urls["ours"] = address(self.start("ours", command, env=env)) + "/v1/review"
        body = {"task": "sentiment", "items": [{"id": "1", "text": TEXT}]}
        self.bodies["ours"] = json.dumps(body)
        answer = ask(self.urls["ours"], self.bodies["ours"].encode())
        assert answer["items"][0]["label"] == "positive", answer

    def start_peers(self):
        # What ours asked the LLM is what a client of the others sends.
        chat = ask(self.urls["stub"])["first"]
        assert "TEXT" in chat, chat
        url = self.urls["stub"] + "/v1/chat/completions"
        self.urls["stub"] = url
        bare = self.start("bare", [self.args.examples / "bench_forwarder", url])
        self.urls["bare"] = address(bare) + "/v1/chat/completions"
        for name in ["stub", "bare"]:
            self.bodies[name] = chat
        if self.args.litellm:
            self.bodies["litellm"] = chat
            self.start_litellm()

    def start_litellm(self):
        config, port = self.folder / "litellm.yaml", free_port()
        config.write_text(LITELLM.format(stub=self.urls["stub"].removesuffix("/v1/chat/completions"), token=TOKEN))
        env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        env |= {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = [self.args.litellm, "--config", config, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
        log = self.stack.enter_context(open(self.folder / "litellm.log", "w"))
        process = self.start("litellm", command, env=env, stdout=log, stderr=log)
        self.urls["litellm"] = f"http://127.0.0.1:{port}/v1/chat/completions"
        for _ in range(240):
            with contextlib.suppress(OSError):
                answer = ask(self.urls["litellm"], self.bodies["litellm"].encode())
                assert answer["choices"][0]["message"]["content"] == '{"label":"positive"}', answer
                break
            if process.poll() is not None:
                break
            time.sleep(0.5)
        else:
            process.kill()
        if process.poll() is not None:
            sys.exit(f"LiteLLM did not start:\n{(self.folder / 'litellm.log').read_text()[-3000:]}")
        try:
            ask(self.urls["litellm"], self.bodies["litellm"].encode(), "sk-wrong")
        except urllib.error.HTTPError as error:
            assert error.code in (400, 401, 403), error.code
        else:
            sys.exit("LiteLLM answered without its key")

    def body(self, name):
        path = self.folder / f"{name}.json"
        path.write_text(self.bodies[name])
        return path

    def texts(self):
        """A seed whose texts nothing has seen."""
        self.seed += 1
        return f"{self.seed:x}".translate(str.maketrans("0123456789", "ghijklmnop")).rjust(4, "z")

    def throughput(self, name, seconds, seed=None, again=0):
        """As many requests as a server takes."""
        server = "ours" if name == "cached" else name
        command = ["wrk", "-t1", f"-c{CONNECTIONS[name]}", f"-d{seconds}s", "--timeout", "10s", "-s", HERE / "load.lua"]
        command += [self.urls[server], "--", self.body(server), TOKEN, seed or self.texts(), again]
        before, cpu = self.drained(), cpu_seconds(self.processes[server])
        output = subprocess.run(
            ["taskset", "-c", str(self.args.load_core), *map(str, command)], check=True, capture_output=True, text=True
        ).stdout
        result = json.loads(output.splitlines()[-1])
        cpu = cpu_seconds(self.processes[server]) - cpu
        # What was in flight at wrk's end is not among its answers.
        forwarded = self.drained() - before
        expected = 0 if name == "cached" else result["requests"]
        if forwarded < expected or forwarded > expected * 1.01 + CONNECTIONS[name]:
            sys.exit(f"{name}: {result['requests']} were answered, {forwarded} came to the LLM")
        self.count(result["requests"], result["status"] + result["broken"] + result["late"], name)
        return result | {"rate": result["requests"] / result["seconds"], "cpu": cpu / result["requests"] * 1e6}

    def latency(self, name, rate, seconds):
        """Times at a fixed rate, in milliseconds."""
        command = [self.args.examples / "bench_load", self.urls[name], TOKEN, self.body(name), self.texts(), rate, seconds]
        output = subprocess.run(
            ["taskset", "-c", str(self.args.load_core), *map(str, command)], check=True, capture_output=True, text=True
        ).stdout
        result = json.loads(output)
        self.count(result["requests"], result["failed"], name)
        return result

    def count(self, requests, failed, name):
        self.requests += requests
        self.failed += failed
        if failed > requests * 0.001:
            sys.exit(f"{name}: {failed} of {requests} requests failed")

    def drained(self):
        """What came to the LLM, when nothing more comes."""
        seen = -1
        while seen != (seen := ask(self.urls["stub"])["requests"]):
            time.sleep(4 * DELAY_MS / 1e3)
        return seen


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measure(bench):
    args = bench.args
    bench.start_stub()
    bench.start_ours()
    bench.start_peers()
    names = ["ours", "cached", "bare"] + (["litellm"] if args.litellm else [])
    ours = bench.processes["ours"]

    def round(seconds, half=None):
        """All servers once; at half of what ours takes, the p99 of ours and of the bare one as well."""
        seed, results = bench.texts(), {}
        for name in names:
            # What `cached` asks is what `ours` was asked just before.
            known = {"ours": {"seed": seed}, "cached": {"seed": seed, "again": 2000}}.get(name, {})
            results[name] = bench.throughput(name, seconds, **known)
        half = half or results["ours"]["rate"] / 2
        for name in ["ours", "bare"]:
            results[name]["tail"] = bench.latency(name, half, seconds)
        return results

    print(f"{DELAY_MS} ms an answer. Requests a second and microseconds of the server's core for one; then, at half of what ours")
    print("takes, milliseconds for which p50 and p99 of the requests take longer")
    titles = [f"{name:>18}" for name in names] + ["     ours p50/p99", "     bare p50/p99", "  our RSS MB"]
    print("".join(titles), flush=True)
    half = round(max(2, args.seconds // 2))["ours"]["rate"] / 2
    began = rss_mb(ours)
    rounds = []
    while len(rounds) < args.rounds or bench.requests < args.requests:
        rounds.append(round(args.seconds, half))
        last = rounds[-1]
        cells = [f"{last[name]['rate']:>11.0f}{last[name]['cpu']:>7.0f}" for name in names]
        cells += [f"{last[name]['tail']['p50']:>9.1f}{last[name]['tail']['p99']:>8.1f}" for name in ["ours", "bare"]]
        print("".join(cells) + f"{rss_mb(ours):>12.1f}", flush=True)
        half = statistics.median(one["ours"]["rate"] for one in rounds) / 2
    grown = rss_mb(ours) - began
    headroom = bench.throughput("stub", args.seconds)["rate"]

    over = lambda a, b: [one[a]["rate"] / one[b]["rate"] for one in rounds]
    ratios = {"vs_litellm": over("ours", "litellm")} if args.litellm else {}
    ratios |= {
        "vs_bare_forwarder": over("ours", "bare"),
        "cached_vs_uncached": over("cached", "ours"),
        "p99_overhead_vs_bare": [one["ours"]["tail"]["p99"] / one["bare"]["tail"]["p99"] for one in rounds],
    }
    print()
    for name, values in ratios.items():
        print(f"{name:<22}{spread(values)}")
    best = max(statistics.median(one[name]["rate"] for one in rounds) for name in ["ours", "bare"])
    print(f"{'stub alone':<22}{headroom:.0f} requests a second, {headroom / best:.1f} times the fastest that forwards")
    if headroom < 2 * best:
        print("generator_headroom is below 2: the load, not the server, may bound the fastest")
    return {name: round_to(statistics.median(values)) for name, values in ratios.items()} | {
        "rss_growth_mb": round_to(grown),
        "requests": bench.requests,
        "failed": bench.failed,
        "generator_headroom": round_to(headroom / best),
    }


def round_to(value):
    return round(value, 2)


def check_store(bench):
    """That the work was done: a settled call for each forwarded request, and an audit log that holds together."""
    shown = subprocess.run([bench.args.binary, "store", "--home", bench.folder, "verify"], capture_output=True, text=True)
    if shown.returncode:
        sys.exit(f"the audit log does not hold: {shown.stdout}{shown.stderr}")
    with contextlib.closing(sqlite3.connect(bench.folder / "pool.db")) as store:
        calls, open_calls = store.execute("SELECT count(*), count(*) FILTER (WHERE cost IS NULL) FROM call").fetchone()
        audited = store.execute("SELECT count(*) FROM audit").fetchone()[0]
    print(f"the store: {calls} calls, {open_calls} open, {audited} entries in the audit log")
    if open_calls:
        sys.exit("calls were left open")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the autoannotator")
    parser.add_argument("--examples", type=Path, required=True, help="the folder of the built examples")
    parser.add_argument("--litellm", type=Path, help="LiteLLM's program; left out without it")
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests in all, at least")
    parser.add_argument("--rounds", type=int, default=6, help="rounds, at least")
    parser.add_argument("--seconds", type=int, default=10, help="seconds for a server in a round")
    parser.add_argument("--quick", action="store_true", help="about two minutes")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    args = parser.parse_args()
    if args.quick:
        args.requests, args.rounds, args.seconds = 0, 3, 4
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: install it (Debian: apt-get install wrk)")
    if not {args.server_core, args.load_core} <= os.sched_getaffinity(0):
        sys.exit("two cores are needed; choose them with --server-core and --load-core")
    (CACHE / "bench").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=CACHE / "bench")))
        with contextlib.ExitStack() as running:
            bench = Bench(args, folder, running)
            result = measure(bench)
        check_store(bench)
    if args.litellm:
        result["litellm"] = metadata.version("litellm")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
