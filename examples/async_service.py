"""A shop as an asyncio service, while its customers are processes that write to the same state.

A customer puts an order into the state and sleeps until the answer is there (`ctx.retry()`). The
service is one event loop with four tasks:

- one wakes up when there are orders (`async for ... in engine.watch("orders")`) and answers them in
  a transaction (`await engine.run_async(...)`), which takes from the stock or refuses;
- one follows the stock, version by version, as a page in a browser would;
- one sleeps until every customer has gone home, and closes (`async with engine.transaction()`);
- one notes how late the event loop wakes it up. None of the others may block the loop.

At the end every order must have had one answer, goods must be neither lost nor sold twice, what was
followed must have ended with what is there, and the loop must never have been blocked.

    python examples/async_service.py
    python examples/async_service.py --blocking     # a wait without `await`: the check fails

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import sys
from collections import Counter
from collections.abc import Iterable

import theus

GOODS = ("apples", "bread", "cheese", "dates")
TICK_S = 0.005
PATIENCE_S = 60.0  # how long the service waits for its customers
LATE_S = 2.0  # a loop that wakes a task up so late has been blocked


# --- what customers do, each in a process of its own


def place(ctx: theus.ProcessContext, order: tuple[int, int], name: str, quantity: int) -> None:
    ctx.orders[order] = {"name": name, "quantity": quantity}


def fetch_answer(ctx: theus.ProcessContext, order: tuple[int, int]) -> bool:
    if order not in ctx.answers:
        ctx.retry()
    return bool(ctx.answers.pop(order))


def shop(engine: theus.Engine, customer: int, orders: int) -> None:
    choice = random.Random(customer)
    bought: Counter[str] = Counter()
    for number in range(orders):
        name, quantity = choice.choice(GOODS), choice.randint(1, 5)
        engine.run(place, (customer, number), name, quantity)
        if engine.run(fetch_answer, (customer, number)):
            bought[name] += quantity
    engine.write(("bought", customer), bought)


# --- what the service does


def answer_all(ctx: theus.ProcessContext) -> int:
    """Answers the orders that are there, and returns how many they were."""
    orders = theus.plain(ctx.orders)
    ctx.orders.clear()
    for order, wanted in orders.items():
        accepted = ctx.stock[wanted["name"]] >= wanted["quantity"]
        if accepted:
            ctx.stock[wanted["name"]] -= wanted["quantity"]
        ctx.answers[order] = accepted
    return len(orders)


def all_have_gone(ctx: theus.ProcessContext, customers: int) -> None:
    if len(ctx.bought) < customers:
        ctx.retry()


class Service:
    """The tasks, and what they have seen."""

    def __init__(self, engine: theus.Engine) -> None:
        self.engine = engine
        self.answered = 0
        self.left = -1
        self.versions: list[int] = []
        self.stocks: list[dict[str, int]] = []
        self.latest_s = 0.0
        self.ticks = 0
        # Begins here, before there is a customer, so that no order is missed.
        self._orders = engine.watch("orders")
        self._stock = engine.watch("stock", "open")

    async def answer_orders(self) -> None:
        async for _version, _paths in self._orders:
            self.answered += await self.engine.run_async(answer_all)

    async def follow_stock(self) -> None:
        async for version, _paths in self._stock:
            with self.engine.snapshot() as ctx:  # waits for nothing, so the loop may do it
                self.versions.append(version)
                self.stocks.append(theus.plain(ctx.stock))
                if not ctx.open:
                    return

    async def close_at_the_end(self, customers: int) -> None:
        await self.engine.run_async(all_have_gone, customers, timeout=PATIENCE_S)
        async with self.engine.transaction() as ctx:
            ctx.open = False
            self.left = sum(ctx.stock.values())
        self._orders.close()  # every customer has had its answers: no order is on its way

    async def watch_the_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.latest_s = max(self.latest_s, loop.time() - due)
            self.ticks += 1

    async def run(self, customers: int, blocking: bool) -> None:
        clock = asyncio.create_task(self.watch_the_loop())
        if blocking:
            await asyncio.sleep(TICK_S)
            self.engine.wait("open", timeout=1.5 * LATE_S)  # nothing else runs meanwhile
        await asyncio.gather(
            self.answer_orders(), self.follow_stock(), self.close_at_the_end(customers)
        )
        await asyncio.sleep(TICK_S)
        clock.cancel()


def mistakes(
    service: Service, state: theus.State, arguments: argparse.Namespace, stock: dict[str, int]
) -> Iterable[str]:
    if service.answered != arguments.customers * arguments.orders:
        yield f"{service.answered} orders were answered"
    for name in ("orders", "answers"):
        if state[name]:
            yield f"{name} that nobody has taken: {state[name]}"
    for name in GOODS:
        sold = sum(bought[name] for bought in state["bought"].values())
        if state["stock"][name] != stock[name] - sold:
            yield f"{name}: {stock[name]} were there, {sold} sold, {state['stock'][name]} are left"
    if service.versions != sorted(set(service.versions)):
        yield "a change was told twice, or an old one after a newer one"
    for before, after in zip(service.stocks, service.stocks[1:]):
        if any(after[name] > before[name] for name in GOODS):
            yield f"the stock grew from {before} to {after}"
    if not service.stocks or service.stocks[-1] != state["stock"]:
        yield "what was followed did not end with what is there"
    if service.left != sum(state["stock"].values()):
        yield f"{service.left} goods were left when it closed"
    if service.latest_s > LATE_S or not service.ticks:
        yield f"the event loop was blocked for {service.latest_s:.1f} s"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--customers", type=int, default=4, metavar="N")
    parser.add_argument("--orders", type=int, default=250, metavar="N", help="of each customer")
    parser.add_argument("--blocking", action="store_true", help="wait once without `await`")
    arguments = parser.parse_args()
    if min(arguments.customers, arguments.orders) < 1:
        parser.error("all numbers must be at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    orders = arguments.customers * arguments.orders
    # Some will be sold out, others will not.
    stock = {name: orders * part // 4 for part, name in enumerate(GOODS, start=1)}
    initial = {"stock": stock, "orders": {}, "answers": {}, "bought": {}, "open": True}
    with theus.open(initial=initial) as engine:
        service = Service(engine)
        customers = [
            multiprocessing.Process(
                target=shop, args=(engine, customer, arguments.orders), daemon=True
            )
            for customer in range(arguments.customers)
        ]
        for customer in customers:
            customer.start()
        asyncio.run(service.run(arguments.customers, arguments.blocking))
        state = engine.state
        for customer in customers:
            customer.join()

    found = list(mistakes(service, state, arguments, stock))
    for mistake in found:
        print(f"WRONG: {mistake}")
    if not found:
        print(
            f"exactly right: {service.answered} orders answered, {len(service.versions)} changes "
            f"followed, {service.left} goods left; the event loop was never blocked "
            f"(latest wake-up: {service.latest_s * 1000:.1f} ms in {service.ticks})"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
