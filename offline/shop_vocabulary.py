"""What the generated shop sells: departments with their steps, and names of makers and series, all invented."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One kind of product, bought at one step of a project."""

    category: str
    noun: str
    """What a title calls it."""
    price: float
    """Of an average item."""
    description: str


@dataclass(frozen=True)
class Department:
    """Products bought one after another, each because of those before."""

    name: str
    steps: tuple[Step, Step, Step, Step]


STEPS = 4

DEPARTMENTS = (
    Department(
        "Office",
        (
            Step("Printers", "Inkjet Printer", 129, "Prints, scans and copies in colour, over USB or the network."),
            Step("Ink", "Ink Cartridge Set", 38, "Black, cyan, magenta and yellow, enough for 400 pages."),
            Step("Paper", "Photo Paper", 14, "Glossy sheets that dry at once and do not curl."),
            Step("Albums", "Photo Album", 22, "Holds 200 prints behind clear sleeves."),
        ),
    ),
    Department(
        "Camping",
        (
            Step("Tents", "Two-Person Tent", 179, "A light tent for three seasons, pitched in five minutes."),
            Step("Sleeping Bags", "Sleeping Bag", 89, "Warm down to freezing, packs to the size of a loaf."),
            Step("Stoves", "Camp Stove", 54, "Boils a litre of water in three minutes, also in wind."),
            Step("Cookware", "Camp Cookware", 36, "Two pots and a pan that nest inside each other."),
        ),
    ),
    Department(
        "Photography",
        (
            Step("Cameras", "Mirrorless Camera", 749, "A compact body with a quick autofocus and a bright finder."),
            Step("Lenses", "Portrait Lens", 329, "A fast lens with a soft background blur."),
            Step("Tripods", "Travel Tripod", 99, "Carries a camera and a long lens, folds to 40 cm."),
            Step("Camera Bags", "Camera Bag", 65, "Padded, rainproof, with room for two lenses."),
        ),
    ),
    Department(
        "Coffee",
        (
            Step("Espresso Machines", "Espresso Machine", 399, "Heats up in a minute and holds its temperature."),
            Step("Grinders", "Coffee Grinder", 119, "Steel burrs, thirty settings from filter to espresso."),
            Step("Milk Frothers", "Milk Jug", 24, "A steel jug with a fine spout for pouring patterns."),
            Step("Descalers", "Descaling Kit", 12, "Keeps pipes and boiler free of lime."),
        ),
    ),
    Department(
        "Cycling",
        (
            Step("Bicycles", "City Bike", 549, "An upright bike with hub gears and a full chain guard."),
            Step("Helmets", "Bike Helmet", 59, "Light, well aired, adjusted by a dial."),
            Step("Lights", "Bike Light Set", 34, "Front and rear light, charged over USB."),
            Step("Panniers", "Pannier Bags", 74, "A pair of waterproof bags that click onto the rack."),
        ),
    ),
    Department(
        "Gaming",
        (
            Step("Consoles", "Game Console", 299, "Plays from disc or download, on television or desk."),
            Step("Controllers", "Wireless Controller", 49, "A second controller with a long-lasting battery."),
            Step("Headsets", "Gaming Headset", 69, "Clear speech and no cable to trip over."),
            Step("Charging", "Charging Dock", 27, "Charges two controllers while they stand on the shelf."),
        ),
    ),
    Department(
        "Music",
        (
            Step("Guitars", "Electric Guitar", 279, "A maple neck and two pickups, easy to play for long."),
            Step("Amplifiers", "Guitar Amplifier", 149, "Twenty watts, three sounds, a socket for headphones."),
            Step("Effects", "Effects Pedal", 79, "Delay and reverb in a box that survives the stage."),
            Step("Strings", "Guitar Strings", 9, "A set of six, bright and slow to rust."),
        ),
    ),
    Department(
        "Garden",
        (
            Step("Mowers", "Lawn Mower", 259, "A quiet battery mower for gardens up to 400 square metres."),
            Step("Batteries", "Tool Battery", 69, "Fits every tool of the line, charged in an hour."),
            Step("Trimmers", "Hedge Trimmer", 84, "Cuts branches as thick as a thumb."),
            Step("Gloves", "Garden Gloves", 13, "Thorns stay out, air comes in."),
        ),
    ),
)

MAKERS = (
    "Kestrel", "Norvik", "Albion", "Tamaro", "Quillon", "Brightwell", "Osprey Lane", "Fjordal", "Marlowe", "Cintra",
    "Hollis", "Vantor", "Pemberly", "Zephyra", "Ironbark", "Lumen", "Castell", "Dunmore", "Ekstrand", "Foxglove",
    "Granat", "Haldane", "Isola", "Juniper", "Kobalt", "Larkspur", "Mondara", "Nimbus", "Orrin", "Palisade",
    "Questa", "Rowan", "Solvane", "Thistle", "Umbra", "Verdant", "Westmoor", "Xanthe", "Yarrow", "Zirkon",
)  # fmt: skip

SERIES = (
    "Alpine", "Breeze", "Classic", "Delta", "Echo", "Flux", "Glide", "Horizon", "Iris", "Jet",
    "Kite", "Luna", "Metro", "Nova", "Orbit", "Pulse", "Quest", "Ridge", "Spark", "Terra",
)  # fmt: skip
