"""The word lists and the sound rules from which the sample corpus is written; all original, no outside text.

Pure: constants only.
"""

HEADS = "Al Ash Bar Bel Bran Cal Cor Dal Dun El Fen Gar Hal Har Ives Kel Lan Lin Mar Mor Nor Oak Pen Ral Sel Tam Ul Wen Wil Yar"
VILLAGE_TAILS = "bury combe dale den field ford gate ham ley mere minster mouth stead stow ton wick"
RIVER_TAILS = "a an ble der ent ick le ow"
GIVEN_HEADS = "Ad Al Be Bri Ca Ced Do Ed El Fa Ger Ha Is Jo Ka Le Ma Ned Os Pe Ro Sa Ta Ul Vi Wa"
GIVEN_TAILS = "bert da dric fa la lan len lia mund na nora ric sa ther win wyn"
FAMILY_HEADS = "Black Bright Brook Cross Dun Fair Frost Green Grey Hart Hill Holt Lock Long March Moor Pike Reed Stone Swift Thorn Under Wake White Wood"
FAMILY_TAILS = (
    "bank borne by cliff cote field foot good hand hill house lake land low man more son tree wall water way well worth"
)

TRADES = """baker:bread,loaf,crust,bun:oven,peel,trough,sieve:bake,knead,prove,glaze
smith:horseshoe,hinge,nail,ploughshare:anvil,hammer,bellows,tongs:forge,temper,rivet,harden
weaver:blanket,shawl,linen,ribbon:loom,shuttle,spindle,comb:weave,card,spin,full
miller:flour,meal,bran,groats:millstone,hopper,sluice,sack:grind,sift,bolt,winnow
cooper:barrel,bucket,tub,cask:adze,croze,hoop,stave:hoop,char,bend,plane
tanner:hide,saddle,strap,apron:vat,scraper,beam,awl:tan,cure,scrape,soak
mason:wall,arch,doorstep,well:trowel,chisel,mallet,plumbline:build,dress,point,lay
fisher:herring,eel,perch,trout:net,hook,trap,float:haul,gut,salt,mend
shepherd:fleece,lamb,cheese,tallow:crook,shears,bell,fold:shear,drive,pen,milk
brewer:ale,cider,malt,mead:mash-tun,kettle,paddle,tap:brew,malt,strain,rack
potter:jug,bowl,tile,pitcher:wheel,kiln,slip,sponge:throw,fire,glaze,shape
carpenter:table,bench,cradle,shutter:saw,auger,chisel,plane:saw,join,carve,peg
beekeeper:honey,wax,candle,comb:hive,smoker,veil,skep:smoke,press,render,cap
glazier:window,lantern,bottle,lens:blowpipe,grozer,furnace,mould:blow,cut,lead,polish
dyer:madder,woad,weld,cloth:cauldron,rinse-pole,mordant,rack:dye,steep,wring,dry
ferryman:rope,oar,passage,toll:boat,pole,landing,winch:row,moor,steer,tow
herbalist:salve,tincture,poultice,tea:mortar,pestle,still,scales:brew,pound,steep,gather
scribe:deed,letter,almanac,map:quill,inkhorn,desk,sandbox:copy,rule,seal,sign
thatcher:roof,reed,straw,ridge:ladder,legget,needle,twine:thatch,bind,trim,comb
charcoal-burner:charcoal,tar,kindling,ash:stack,rake,spade,turf:burn,rake,sift,cover
gardener:cabbage,leek,onion,turnip:hoe,dibber,barrow,basket:plant,weed,prune,hoe
cobbler:boot,shoe,clog,buckle:last,bodkin,thread,knife:stitch,sole,lace,wax
chandler:soap,lamp,wick,oil:mould,ladle,tray,funnel:dip,pour,trim,scent
carter:hay,timber,gravel,coal:wagon,harness,axle,whip:haul,load,hitch,deliver"""

ADJECTIVES = """old young broad narrow quiet merry stubborn patient clever careful lame tall thin cheerful silent honest
proud weary gentle stern curious restless steady famous humble lucky hungry sleepy grateful anxious""".split()
THING_ADJECTIVES = """new broken heavy small fine rough plain painted crooked sturdy cheap costly borrowed mended rusty smooth
clean dusty bright worn spare oaken iron copper wooden""".split()
WEATHER = """rain hail sleet snow fog mist frost thunder drizzle sunshine wind cloud dew lightning""".split()
WEATHER_DEEDS = """flattened the barley|filled the ditches|hid the hills|kept the boats ashore|froze the millpond|cracked the tiles
cheered the reapers|delayed the market|soaked the hay|scattered the geese|blackened the bean rows|woke the whole street
swelled the river|dried the linen|ripened the plums|drove the cattle home|spoiled the feast|turned the lane to mud""".replace(
    "\n", "|"
).split("|")
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
CROPS = "barley wheat oats rye beans peas turnips cabbages onions leeks carrots apples pears plums cherries hazelnuts walnuts flax hops hay".split()
BEASTS = "ox cow goat ewe ram hen goose duck pony mule sow hound cat donkey heifer gander".split()
BIRDS = "rook lark thrush heron owl swallow wren kestrel robin starling cuckoo magpie curlew plover raven".split()
TREES = "oak ash elm birch alder willow hazel rowan beech yew holly hawthorn maple pine".split()
FLOWERS = (
    "primrose bluebell foxglove cowslip daisy poppy clover violet yarrow tansy mallow thistle campion heather".split()
)
PLACES = """market bridge churchyard green well ford crossroads mill orchard quarry tavern common pasture wharf barn
smithy dairy granary chapel meadow""".split()
FEELINGS = "joy sorrow anger relief shame hope doubt fear pride wonder pity delight envy calm".split()
SAID = "said answered asked replied muttered whispered shouted laughed sighed promised insisted admitted warned repeated".split()
QUARRELS = """the height of a hedge|a debt of three pennies|the right of way to the ford|a strayed pig|the price of salt|the last dance
an unpaid toll|the bell at dawn|a broken gate|the loan of a ladder|the boundary stone|a careless remark""".replace(
    "\n", "|"
).split("|")
EVENTS = """the roof of the chapel was mended|the bridge was rebuilt in stone|a fair was held for nine days|the well ran dry
a comet was seen above the hill|wolves came down from the moor|a school was opened for the children|the great bell was cast
the tithe was forgiven|a stranger paid for every drink in the tavern|the mill burned and was raised again|the road was paved
two brothers divided one field|the fever passed the village by|the council chose a new reeve|the river changed its bed
a wedding joined two quarrelling houses|the harvest filled every barn|a library of forty books was given|the old oak fell""".replace(
    "\n", "|"
).split("|")
PROVERBS = """who {verb}s in haste will {verb2} again at leisure|a borrowed {tool} is never sharp|no {good} without a {tool}
when the {bird} is silent, look to your {crop}|a {adj} neighbour is better than a {thing} fence|the {beast} knows the way to its own {place}
plant {crop} before the {tree} is green|{weather} in {month}, {crop} in plenty|a {adj} {trade} needs no sign above the door
count your {good}s when the market is over|the {tree} does not envy the {flower}|one {tool} in the hand is worth a dozen in the {place}
trust the {trade} who is {adj} with the scales|{feeling} comes on a {beast} and leaves on foot""".replace(
    "\n", "|"
).split("|")
NUMBERS = """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety""".split()
RHYMES = """day:hay,way,grey,clay,may,play,stay,away|night:light,bright,sight,white,flight,right,might,height
stone:alone,bone,blown,grown,known,sown,own,thrown|hill:mill,still,chill,fill,will,till,spill,sill
rain:grain,lane,plain,chain,again,train,vain,wane|door:floor,moor,shore,before,store,more,oar,lore
sheep:sleep,deep,keep,reap,steep,leap,creep,weep|fire:wire,choir,spire,byre,hire,mire,briar,squire
snow:below,crow,sow,grow,slow,go,bestow,row|sea:bee,tree,key,free,tea,knee,agree,three""".replace("\n", "|").split("|")
VERSE_STARTS = """Over the meadow|Down by the river|Under the willow|Here in the valley|Far from the market|Early this morning
Late in the autumn|Once in the springtime|Close to the chimney|High on the gable|Back to the village|Out on the common""".replace(
    "\n", "|"
).split("|")
VERSE_MIDDLES = """the {beast} and the {bird} have all gone to the|my {adj} heart is waiting, it longs for the
the {trade} goes singing a song of the|a {thing} little {tool} is lost by the|the {flower} and the {tree} are dreaming of
the {adj} old {trade} is thinking about the|I carry my {good} and I follow the|and nobody knows but the {bird} and the""".replace(
    "\n", "|"
).split("|")
HOUSE_GOODS = """apron armchair axe bag basin basket bedstead bellrope besom bobbin bodice bolster bonnet bookcase bowl box bracelet brazier breadboard
broom brooch brush bucket butterdish button cabinet cage canister cap cape casket cauldron chest churn cloak clock coat coffer colander collar coverlet cradle
crate crock cup cupboard cushion dagger dish doll doormat drawer drum dustpan earring ewer fan fiddle firedog flagon flask flute footstool fork
frame funnel garter girdle glove goblet gown grater griddle hairpin hamper handkerchief hatbox hatchet headscarf hood hourglass inkstand jar jerkin jewel jug
kerchief kettle key keyring kneeler ladder ladle lantern lid locket lute mantle mask mat mattress medal mirror mitten mug napkin necklace
needlecase nightcap nutcracker overcoat paddle padlock pan pannier pantry-shelf parasol peg penknife pepperpot petticoat pillow pin pincushion pipe pitcher placemat plate platter
poker pot pouch purse quilt rack rake rattle razor ring rolling-pin rug saltcellar sandal sash saucepan saucer scarf scoop screen scythe
settle sheet shovel shroud sickle sieve skillet skirt sledge sleeve slipper snuffbox sock spoon spur spyglass staff stool strainer suitcase sundial
tablecloth tankard tapestry teapot thimble thimble-case ticking tinderbox toasting-fork tongs towel toy tray trellis trivet trunk tunic tureen turnspit umbrella urn
valance vase vest wardrobe warming-pan washtub waistcoat whetstone whisk whistle wick-trimmer wig windowbox workbox wreath yardstick yoke zither""".split()
COLOURS = "amber azure black blue bronze brown cream crimson gold green grey indigo ivory lilac maroon ochre olive orange pink purple red russet scarlet silver tan teal violet white yellow".split()
JOURNEYS = """arrived climbed crossed danced departed drifted escaped fell fled followed galloped hastened hurried jumped knelt limped lingered marched
passed paused plodded raced rambled ran returned rode rolled rowed rushed sailed sauntered scrambled searched slipped sneaked stepped stopped strode
strolled stumbled swam tiptoed toiled travelled trotted trudged turned vanished waded waited walked wandered waltzed""".split()
RELATIVES = "mother father sister brother aunt uncle cousin nephew niece grandmother grandfather daughter son godmother stepfather widow widower apprentice neighbour landlord servant nurse".split()
FOODS = """almond apricot bacon barley-broth batter biscuit blackberry broth butter buttermilk cake caraway carp celery cheesecake chestnut chicory chive chutney
cinnamon clove cobnut crab crayfish cream cress cucumber curd currant custard damson dumpling elderberry fennel fig fritter garlic ginger gooseberry gravy
ham hotpot jam jelly kale kipper lentil lettuce lovage mackerel marjoram marmalade marrow medlar mint mulberry mushroom mussel mustard mutton nettle nutmeg
oatcake oyster pancake parsley parsnip partridge pastry pasty peach pepper pheasant pickle pie porridge pottage pudding quail quince radish raisin raspberry
relish rhubarb rosemary sage salad salmon sauce sausage scone shallot shrimp sloe snail sorrel soup spinach sprout stew strawberry syrup tart thyme toffee
treacle truffle turnover veal venison vinegar wafer watercress whey woodcock yeast""".split()
BODIES = "ankle arm back brow cheek chest chin ear elbow eye finger foot forehead hand heel hip jaw knee leg lip neck nose shoulder shin skin stomach thumb throat toe tongue tooth wrist".split()
AILMENTS = "ache bruise burn blister boil chill cough cramp cut fever gout itch numbness palsy pox rash scald sore sprain sting stiffness swelling tremor wart wound".split()
