"""A bank: tellers transfer money between accounts while auditors count all of it, again and again.

A transfer is one function, run by `engine.run`: it takes from one account and gives to another, or
refuses when the money is not there. Tellers are processes of their own, and their transfers overlap
all the time; two that meet at an account are run one after the other.

An auditor is another process. It adds up all accounts in `engine.snapshot()`, which is one version
of the state, waits for nobody and stops nobody; then it sleeps in `engine.wait` until an account
has changed. Whenever it looks, the total must be the same. At the end every account must hold
exactly what the transfers that were acknowledged left there.

    python examples/bank.py
    python examples/bank.py --torn      # each transfer as two transactions: the audits see it

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
from collections import Counter
from collections.abc import Iterable

import theus

OPENING_BALANCE = 100
PATIENCE_S = 30.0  # how long tellers wait for the first audit


# --- transactions


def withdraw(ctx: theus.ProcessContext, account: int, amount: int) -> bool:
    if ctx.accounts[account] < amount:
        return False
    ctx.accounts[account] -= amount
    return True


def deposit(ctx: theus.ProcessContext, account: int, amount: int) -> None:
    ctx.accounts[account] += amount


def transfer(ctx: theus.ProcessContext, source: int, target: int, amount: int) -> bool:
    """Both or neither: a transaction is made of ordinary functions that pass ctx on."""
    if not withdraw(ctx, source, amount):
        return False
    deposit(ctx, target, amount)
    return True


def audit_has_begun(ctx: theus.ProcessContext) -> None:
    if not ctx.audits:
        ctx.retry()  # sleeps until there is one


# --- processes


def work_as_teller(engine: theus.Engine, number: int, transfers: int, torn: bool) -> None:
    """Makes random transfers, and leaves a note of what they should have come to."""
    choice = random.Random(number)
    accounts = list(engine.state["accounts"])
    engine.run(audit_has_begun, timeout=PATIENCE_S)
    flow: Counter[int] = Counter()
    refused = 0
    for _ in range(transfers):
        source, target = choice.sample(accounts, 2)
        amount = choice.randint(1, OPENING_BALANCE)
        if torn:
            done = engine.run(withdraw, source, amount)
            if done:
                engine.run(deposit, target, amount)
        else:
            done = engine.run(transfer, source, target, amount)
        if done:
            flow[source] -= amount
            flow[target] += amount
        else:
            refused += 1
    engine.update({("flows", number): dict(flow), ("refused", number): refused})


def work_as_auditor(engine: theus.Engine, number: int, total: int) -> None:
    """Audits until the bank closes, and once more after that."""
    audits = 0
    wrong: list[int] = []
    while True:
        with engine.snapshot() as ctx:
            is_open = ctx.open
            balances = list(ctx.accounts.values())
            version = ctx.transaction.snapshot_version
        audits += 1
        if sum(balances) != total or min(balances) < 0:
            wrong.append(sum(balances))
        if audits == 1:
            engine.write(("audits", number), {})
        if not is_open:
            break
        engine.wait("accounts", "open", since=version)
    engine.write(("audits", number), {"made": audits, "wrong": wrong})


# --- the parent


def mistakes(state: theus.State) -> Iterable[str]:
    for number, report in state["audits"].items():
        if report["wrong"]:
            yield (
                f"auditor {number}: {len(report['wrong'])} of {report['made']} audits were wrong, "
                f"the first found a total of {report['wrong'][0]}"
            )
    for account, balance in state["accounts"].items():
        right = OPENING_BALANCE + sum(flow.get(account, 0) for flow in state["flows"].values())
        if balance != right:
            yield f"account {account} holds {balance}, not {right}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--accounts", type=int, default=100, metavar="N")
    parser.add_argument("--transfers", type=int, default=5000, metavar="N", help="of each teller")
    parser.add_argument("--tellers", type=int, default=3, metavar="N")
    parser.add_argument("--auditors", type=int, default=1, metavar="N")
    parser.add_argument("--torn", action="store_true", help="two transactions for each transfer")
    arguments = parser.parse_args()
    if arguments.accounts < 2 or min(arguments.tellers, arguments.auditors) < 1:
        parser.error("there must be two accounts, a teller and an auditor")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    accounts = dict.fromkeys(range(arguments.accounts), OPENING_BALANCE)
    total = sum(accounts.values())
    initial = {"accounts": accounts, "flows": {}, "refused": {}, "audits": {}, "open": True}
    with theus.open(initial=initial) as engine:
        tellers = [
            multiprocessing.Process(
                target=work_as_teller,
                args=(engine, number, arguments.transfers, arguments.torn),
                daemon=True,
            )
            for number in range(arguments.tellers)
        ]
        auditors = [
            multiprocessing.Process(
                target=work_as_auditor, args=(engine, number, total), daemon=True
            )
            for number in range(arguments.auditors)
        ]
        for process in auditors + tellers:
            process.start()
        for process in tellers:
            process.join()
        engine.write("open", False)
        for process in auditors:
            process.join()
        state = engine.state

    found = list(mistakes(state))
    if any(process.exitcode != 0 for process in tellers + auditors):
        found.append("a process has failed")
    for mistake in found:
        print(f"WRONG: {mistake}")
    if not found:
        reports = list(state["audits"].values())
        print(
            f"exactly right: {arguments.tellers * arguments.transfers} transfers "
            f"({sum(state['refused'].values())} refused), "
            f"{sum(report['made'] for report in reports)} audits, each of which found {total}"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
