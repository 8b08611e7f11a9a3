"""The simulated shop's list of products."""

import numpy as np
import pyarrow as pa

from kdlib.simulation.names import ADJECTIVES, BRANDS, COLOURS, category_names
from kdlib.simulation.world import UNAVAILABLE_FRACTION, World


def catalogue(world: World, *, seed: int, until_day: int) -> pa.Table:
    """The products launched up to a day of the period, one row an item, sorted by id.

    Columns: item_id, title, category, brand, colour, price, available.
    """
    rng = np.random.default_rng([seed, 1])
    names = category_names(len(world.first_items))
    colours = [colour for shade in COLOURS for colour in shade]
    models = rng.integers(0, 90, world.num_items).tolist()
    kinds = [names[category] for category in world.categories.tolist()]
    brands = [BRANDS[brand] for brand in world.brands.tolist()]
    adjectives = [ADJECTIVES[adjective] for adjective in world.adjectives.tolist()]
    available = np.ones(world.num_items, bool)
    unavailable = round(UNAVAILABLE_FRACTION * world.num_items)
    available[rng.choice(world.num_items, unavailable, replace=False)] = False
    table = pa.table(
        {
            "item_id": world.item_ids(),
            "title": [
                f"{brand} {adjective} {kind} {10 + model}"
                for brand, adjective, kind, model in zip(brands, adjectives, kinds, models, strict=True)
            ],
            "category": kinds,
            "brand": brands,
            "colour": [colours[colour] for colour in world.colours.tolist()],
            "price": world.prices,
            "available": available,
        }
    )
    launched = world.launch_days[world.numbers] <= until_day
    return table.take(pa.array(world.numbers[launched]))
