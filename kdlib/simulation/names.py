"""Words for the titles of the simulated products.

Neighbouring categories share a noun: titles tell which items are related.
"""

NOUNS = {
    "boots": ("hiking", "winter", "work", "riding"),
    "jacket": ("rain", "down", "fleece", "softshell"),
    "backpack": ("trekking", "school", "camera", "laptop"),
    "tent": ("family", "dome", "tunnel", "beach"),
    "lamp": ("desk", "floor", "bedside", "head"),
    "chair": ("office", "garden", "dining", "camping"),
    "table": ("coffee", "folding", "console", "picnic"),
    "shelf": ("wall", "corner", "spice", "shoe"),
    "pan": ("frying", "grill", "crepe", "paella"),
    "knife": ("chef", "bread", "pocket", "carving"),
    "kettle": ("electric", "whistling", "gooseneck", "travel"),
    "mug": ("coffee", "thermos", "beer", "enamel"),
    "headphones": ("wireless", "studio", "sports", "gaming"),
    "keyboard": ("mechanical", "compact", "ergonomic", "piano"),
    "cable": ("charging", "network", "audio", "display"),
    "speaker": ("bluetooth", "bookshelf", "party", "ceiling"),
    "bicycle": ("city", "mountain", "road", "folding"),
    "helmet": ("cycling", "ski", "climbing", "skate"),
    "gloves": ("gardening", "boxing", "leather", "running"),
    "mat": ("yoga", "bath", "door", "cutting"),
    "drill": ("cordless", "hammer", "column", "hand"),
    "saw": ("circular", "jig", "chain", "pruning"),
    "hose": ("garden", "vacuum", "shower", "air"),
    "brush": ("paint", "hair", "dish", "makeup"),
    "cream": ("hand", "face", "sun", "shaving"),
    "shampoo": ("herbal", "baby", "anti-dandruff", "dog"),
    "puzzle": ("jigsaw", "wooden", "cube", "map"),
    "blocks": ("building", "magnetic", "alphabet", "marble-run"),
    "leash": ("retractable", "training", "running-belt", "double"),
    "aquarium": ("nano", "corner", "reef", "turtle"),
    "notebook": ("dotted", "lined", "sketch", "travel"),
    "pen": ("fountain", "gel", "calligraphy", "marker"),
}
"""Noun → its kinds. Each pair of noun and kind is a category."""

RANGES = ("", "women's", "men's", "kids'", "vintage", "professional", "budget", "luxury", "rental-grade", "eco")
"""Words before a category's name, for more categories than the pairs above."""

BRAND_FAMILIES = (
    ("Norvik", "Fjellro", "Pinegate", "Tresco"),
    ("Talera", "Velmora", "Mirabeau", "Ondelle"),
    ("Brisk & Sons", "Hartwin", "Kestrel Lane", "Wexcombe"),
    ("Okuma Works", "Hoshi", "Zentavo", "Kaname"),
    ("Lumhaus", "Arkadi", "Bergfeld", "Stahlwerk"),
    ("Casaluna", "Solventi", "Bonavita", "Terrafina"),
)
"""Families of brands. The same users like all brands of a family."""
STYLES = (
    ("waterproof", "sturdy", "reinforced"),
    ("compact", "foldable", "lightweight"),
    ("premium", "handmade", "classic"),
    ("recycled", "washable", "organic"),
    ("soft", "padded", "cosy"),
    ("slim", "matte", "minimalist"),
)
"""Styles, as adjectives. The same users like all adjectives of a style."""
COLOURS = (("black", "navy"), ("white", "sand"), ("red", "yellow"))
"""Shades of colours. The same users like all colours of a shade. Colours are in the catalogue's column `colour`,
never in a title."""

BRANDS = tuple(brand for family in BRAND_FAMILIES for brand in family)
ADJECTIVES = tuple(adjective for style in STYLES for adjective in style)


def category_names(num_categories: int) -> list[str]:
    """A distinct name for each category: `hiking boots`, then `women's hiking boots`, then `hiking boots series 2`."""
    pairs = [f"{kind} {noun}" for noun, kinds in NOUNS.items() for kind in kinds]
    names = []
    for number in range(num_categories):
        widening, pair = divmod(number, len(pairs))
        series, widening = divmod(widening, len(RANGES))
        names.append(f"{RANGES[widening]} {pairs[pair]}".strip() + (f" series {series + 1}" if series else ""))
    return names


def noun_of(category_name: str) -> str:
    """The noun in a category's name: `boots` in `women's hiking boots series 2`."""
    return category_name.partition(" series ")[0].rpartition(" ")[2]
