"""Closed word classes of English captions, and the words in them that end like verbs or plurals but are nouns.

The lists were written from grammar and from everyday captions; they hold no content words of any data set's labels.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION = _words(
    """a an the this that these those some any each every no none another other both all many much more most few several
    various different own same such one two three four five six seven eight nine ten eleven twelve twenty dozen dozens
    hundred i me my we us our you your he him his she her it its they them their who whom whose which what where when
    while how there here himself herself itself themselves something someone anything nothing everything everyone of
    in on at by with without from to into onto over under above below between among behind beside besides near next
    along across against around about after before during through toward towards up down off out outside inside within
    beyond past upon via per as like than for because since until if though although but and or nor so yet plus not
    only also very just even too still almost quite rather really together apart away back ahead alone forward
    forwards nearby overhead upside indoors outdoors is are was were be been being am has have had having do does did
    done doing can could will would shall should may might must isn't aren't wasn't can't don't doesn't didn't won't s
    t"""
)
ADJECTIVES = _words(
    """red orange yellow green blue purple pink white black brown grey gray golden silver tan beige violet dark bright pale
    colorful colourful multicolored striped spotted plaid clear big small large little tiny huge giant tall short long
    wide narrow high low deep thick thin fat old young new ancient modern antique vintage adult male female human wild
    domestic good bad nice great beautiful pretty cute lovely handsome ugly fresh ripe raw hot cold warm cool wet dry
    dirty clean shiny rusty dusty muddy sandy rocky snowy sunny cloudy rainy windy foggy grassy leafy wooden metal
    metallic plastic stone brick concrete woollen leather electric digital full empty open closed busy crowded quiet
    quick slow fast soft hard smooth rough sharp flat round square oval rectangular straight curved single double
    whole half first second third last main real fake similar typical sliced professional asian african american
    english chinese japanese french italian german happy sad angry sleepy tired hungry asleep awake alive dead sick
    healthy strong weak heavy ready able available upper middle-aged lower left-handed right-handed front-facing
    elderly urban rural public private local foreign residential commercial military royal fancy plain simple elegant
    neat messy furry fluffy hairy bald blond blonde brunette shaggy bushy curly wavy bearded delicious tasty sweet
    sour spicy creamy cheesy crispy homemade gourmet vegetarian overcast bare bored calm parked stuffed covered filled
    topped loaded lined lit painted mounted dressed"""
)
VERBS = _words(  # third persons and pasts that stand in captions without an ending that gives them away
    """sits stands lies lays holds rides walks runs plays looks stares gazes watches eats drinks flies swims jumps leaps
    climbs crosses carries pulls pushes wears shows appears seems contains features includes makes takes gives gets
    goes comes hangs rests leans poses smiles waits prepares tries reads writes talks speaks sleeps swings hits throws
    catches kicks bats serves surfs skis skates grazes roams feeds peers reaches touches uses cuts cooks bakes fills
    covers surrounds overlooks faces points travels drives sails floats moves turns passes stops enters leaves
    approaches follows leads works enjoys performs displays competes practices practises attempts celebrates gathers
    lounges lays licks sniffs chews bites drags pets hugs kisses waves sat stood lay held rode walked ran ate drank
    flew swam wore made took gave got went came hung left threw caught hit cut sit stand hold ride walk look eat fly
    swim wear make take get go come sitting"""
)
ING_NOUNS = _words(
    """building buildings ceiling clothing painting paintings drawing wedding evening morning string ring king thing spring
    swing wing sling railing awning frosting icing stuffing dressing earring earrings wings rings strings things
    duckling dumpling dumplings pudding crossing landing lightning lighting parking bedding shelving siding topping
    toppings seasoning sibling offspring viking lodging opening meeting fencing"""
)
ED_NOUNS = _words("bed beds sled shed seed weed reed reeds breed steed bobsled moped biped quadruped watershed feed hundred")
ABLE_NOUNS = _words("table vegetable cable stable timetable constable dish fish radish goldfish catfish relish")
S_NOUNS = _words(  # singular words that end in s
    """bus glass grass dress cactus octopus walrus virus campus circus lens gas bias class brass mattress mess pass cross
    moss christmas tennis canvas atlas iris hibiscus platypus hippopotamus rhinoceros asparagus couscous hummus citrus
    lotus princess waitress actress fortress harness wilderness business compass boss loss toss kiss abacus chess news
    series species gymnastics physics mathematics swiss"""
)
KEPT_PLURAL = _words("scissors pants jeans shorts glasses sunglasses goggles binoculars trousers clothes tights pliers")
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse", "geese": "goose", "feet": "foot",
    "teeth": "tooth", "knives": "knife", "wives": "wife", "lives": "life", "leaves": "leaf", "loaves": "loaf", "wolves": "wolf",
    "shelves": "shelf", "halves": "half", "calves": "calf", "scarves": "scarf", "hooves": "hoof", "elves": "elf", "oxen": "ox",
    "dice": "die", "policemen": "policeman", "firemen": "fireman", "snowmen": "snowman", "cacti": "cactus", "shoes": "shoe",
    "toes": "toe", "canoes": "canoe", "horseshoes": "horseshoe", "snowshoes": "snowshoe", "movies": "movie", "ties": "tie",
    "pies": "pie", "cookies": "cookie", "zombies": "zombie", "brownies": "brownie", "smoothies": "smoothie", "puppies": "puppy",
    "buses": "bus", "gases": "gas", "lenses": "lens", "horses": "horse", "houses": "house", "roses": "rose", "noses": "nose",
    "vases": "vase", "cases": "case", "bases": "base", "purses": "purse", "hoses": "hose", "blouses": "blouse",
    "suitcases": "suitcase", "bookcases": "bookcase", "greenhouses": "greenhouse", "axes": "axe", "caches": "cache",
}  # fmt: skip
GENERAL = _words(  # say how many or where in the picture, not what
    """group number top bottom side front back middle center centre left right bunch couple pair set lot lots piece part kind
    type sort row line picture photo photograph image view scene background foreground shot close closeup corner edge
    end variety collection assortment half way area place position direction distance time day amount plenty others"""
)
