"""The things the demo model can draw: pictures from Noto Color Emoji, names from the Unicode CLDR.

Both come from Debian's packages: fonts-noto-color-emoji and unicode-cldr-core.
"""
import dataclasses
import io
import pathlib
import xml.etree.ElementTree

import numpy as np
from PIL import Image

FONT = pathlib.Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
ANNOTATIONS = pathlib.Path("/usr/share/unicode/cldr/common/annotations")
SIDE = 128  # pixels of a glyph's square

# Chosen for being told apart at a glance, under their Chinese measure words. Quality is measured on
# the common ones; the rare ones are drawn less often in training.
COMMON = {
    "只": "🐵🐶🐺🦊🦝🐱🦁🐯🦓🐮🐷🐑🐘🐭🐰🐻🐨🐼🐔🐤🐧🦅🦆🦉🦩🦜🐸🐊🐢🐳🐬🐙🐌🦋🐛🐝🐞🕷🦀🦐🐪🦒",
    "条": "🐍🐟🐠🦈👖🧣",
    "匹": "🐴🦄",
    "个": "🍉🍊🍋🍍🍎🍏🍐🍑🍒🍓🥝🍅🥥🥑🍆🥔🌽🥦🧅🍄🍞🥐🥨🍔🍕🌭🥪🥚🍙🍩🍪🎂🧁🍦🍭🌍🎈🎁🏆⚽⚾🏀🎾🎯🎱🎲🧩🧸👓"
         "👑🎩🔔🔋💡💰🔨⏰⌚⌛😀😎😢😡🤖👻👽💀🤡🎃⛄👍👂👃🧠🦷💎☂📦🔑🔒🧲✂🎀💣🧱🍯🍿🪣📷🌈",
    "根": "🍌🥕🦴🕯🪶",
    "朵": "🌸🌹🌻🌷☁🔥",
    "棵": "🌲🌳🌴🌵🎄🍀",
    "片": "🍁🥓",
    "辆": "🚂🚌🚑🚒🚓🚕🚗🚚🚜🏍🛵🚲",
    "架": "✈🚁",
    "艘": "⛵🚢🚀🛸",
    "杯": "🥛☕🍷🍹🍺",
    "座": "🏠🏰🗼🌋",
    "颗": "⭐❤💙💚💛",
    "把": "🎸🎻🪑🪓",
    "本": "📕📗📘",
    "双": "🧤🧦",
}
RARE = {
    "只": "🐗🐐🦙🦏🐹🦔🦇🦥🦦🦨🦘🐓🐦🦢🦚🦎🦖🦭🐡🐚🐜🪲🦂🦞🦑👟👢👠",
    "个": "🍇🍈🥭🫐🫒🌶🫑🥬🧄🥜🌰🥯🥞🧇🧀🍖🍗🥩🍟🌮🌯🍳🥗🍚🍜🍝🍣🥟🍰🥧🍫🍬🍮🍼🥤🧊🏈🎳🥊🔮🎮👜🎒🎓🧢💍"
         "🎧📻🥁☎💻📺🔍🏮🪙✉💼⚓🛑🚦🛴🛹🪐🌙⚡❄💧👀👄🪴🌺🌼🌱⛺⛲🎡🎪🏭⛪🗽🛏🛁🧺🧻📌📎🧪🔬🔭💊🪜👔👕👗",
    "支": "🎤🖍✏💉💄🎷🎺",
    "颗": "💜🧡🖤🪨☀",
}

# Where CLDR's name is not what one would say.
EN = {"🚗": "car", "✈": "plane", "🎲": "die", "🎱": "eight ball", "☕": "cup of coffee", "🏍": "motorbike",
      "🛵": "scooter", "🚂": "steam train", "⌛": "hourglass", "⚽": "football", "🎾": "tennis racket",
      "😀": "smiley", "😎": "smiley with sunglasses", "😢": "crying smiley", "😡": "angry smiley", "⛄": "snowman",
      "🎃": "pumpkin lantern", "🐑": "sheep", "🐝": "bee", "🐛": "caterpillar", "🐞": "ladybird", "🐤": "chick",
      "🐳": "whale", "🌽": "corn cob", "🍦": "ice cream cone", "🌍": "globe", "🎀": "bow", "🍷": "glass of wine",
      "🍹": "cocktail", "🍺": "mug of beer", "🍿": "box of popcorn", "👓": "pair of glasses", "🧤": "pair of gloves",
      "🧦": "pair of socks", "👖": "pair of jeans", "✂": "pair of scissors", "🍒": "bunch of cherries",
      "🥓": "slice of bacon", "🗼": "red tower", "🧱": "brick wall", "🌲": "fir tree", "🌳": "leafy tree",
      "🍀": "four-leaf clover", "📕": "red book", "🍇": "bunch of grapes", "🥜": "peanut", "🥞": "stack of pancakes",
      "🍗": "chicken leg", "🍖": "piece of meat on a bone", "🥩": "steak", "🍟": "portion of fries",
      "🍳": "fried egg", "🥗": "bowl of salad", "🍚": "bowl of rice", "🍜": "bowl of noodles",
      "🍝": "plate of spaghetti", "🍣": "piece of sushi", "🥤": "drink with a straw", "🧊": "ice cube",
      "🏈": "American football", "🎳": "bowling pin", "🎧": "pair of headphones", "🔍": "magnifying glass",
      "👀": "pair of eyes", "👟": "sneaker", "👢": "boot", "👠": "high heel", "🫐": "bunch of blueberries",
      "🌶": "chili", "🥬": "lettuce", "🧀": "piece of cheese", "⚡": "lightning bolt", "💧": "drop of water",
      "🪐": "planet with a ring", "🌱": "sprout", "🚦": "traffic light", "🐚": "shell", "👔": "shirt with a tie",
      "🍮": "pudding", "🍞": "loaf of bread", "🔒": "padlock", "🎡": "Ferris wheel", "🧢": "baseball cap",
      "🎮": "game controller", "🧄": "head of garlic", "🍬": "piece of candy", "🏮": "lantern"}
ZH = {"☕": "咖啡", "😀": "笑脸", "😎": "戴墨镜的笑脸", "😢": "哭脸", "😡": "生气的脸", "🌍": "地球仪", "🥛": "牛奶",
      "🍹": "果汁", "🎾": "网球拍", "🎯": "靶子", "🌳": "大树", "🗼": "红塔", "🏰": "城堡", "📕": "红色书",
      "📗": "绿色书", "📘": "蓝色书", "💀": "骷髅头", "🐑": "绵羊", "🐳": "鲸鱼", "🍦": "甜筒", "🎱": "黑八球",
      "🧱": "砖墙", "👍": "大拇指", "🛵": "踏板车", "🍖": "带骨肉", "🍗": "鸡腿", "🥩": "牛排", "🥗": "沙拉",
      "🥤": "饮料", "🏈": "橄榄球", "🎳": "保龄球瓶", "🔍": "放大镜", "👢": "靴子", "🚦": "红绿灯", "🐚": "贝壳",
      "👔": "衬衫", "🧀": "奶酪", "⚡": "闪电", "🪐": "土星", "🗽": "女神像", "👄": "嘴唇", "🥞": "煎饼",
      "🍰": "蛋糕", "🥬": "生菜", "🌶": "辣椒", "🌼": "小黄花", "🌺": "芙蓉花", "🍮": "布丁", "🔒": "锁",
      "🦙": "羊驼"}
# Shorter names, used now and then.
ALIASES = {"🍎": ("apple", "苹果"), "❤": ("heart", "心"), "📕": ("book", "书"), "🌳": ("tree", "树"), "🌸": ("flower", "花"),
           "🗼": ("tower", "塔"), "🚂": ("train", "火车"), "🎁": ("gift", "礼物"), "🎂": ("cake", "蛋糕"), "🚚": ("truck", "卡车")}
IRREGULAR = {"mouse": "mice", "wolf": "wolves", "die": "dice", "snowman": "snowmen", "maple leaf": "maple leaves", "tooth": "teeth",
             "loaf": "loaves", "scarf": "scarves", "sheep": "sheep", "fish": "fish", "tropical fish": "tropical fish",
             "blowfish": "blowfish", "thumbs up": "thumbs up"}


@dataclasses.dataclass
class Glyph:
    char: str
    en: str
    en_plural: str
    zh: str
    measure: str  # Chinese measure word
    is_common: bool
    alias: tuple = None  # (en, zh)


def plural(name):
    """English plural of the noun that counts: 'glass of milk' -> 'glasses of milk'."""
    if name in IRREGULAR:
        return IRREGULAR[name]
    for link in (" of ", " with ", " on "):
        head, found, rest = name.partition(link)
        if found:
            return plural(head) + link + rest
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    if name.endswith(("s", "x", "ch", "sh")) or name in ("tomato", "potato", "mango", "volcano"):
        return name + "es"
    return name + "s"


def with_article(name):
    sounds_like_vowel = name[0].lower() in "aeio" or name.startswith(("umbrella", "hour"))
    return ("an " if sounds_like_vowel else "a ") + name


def cldr_names(language):
    entries = xml.etree.ElementTree.parse(ANNOTATIONS / f"{language}.xml").iter("annotation")
    return {e.get("cp"): e.text for e in entries if e.get("type") == "tts"}


def choose():
    """The list of Glyph, common ones first. The order is the glyphs' numbering everywhere."""
    names_en, names_zh = cldr_names("en"), cldr_names("zh")
    glyphs = []
    for table, is_common in ((COMMON, True), (RARE, False)):
        for measure, chars in table.items():
            for char in chars:
                en = EN.get(char) or names_en[char].replace("’", "'").removesuffix(" face")
                zh = ZH.get(char) or names_zh[char].removesuffix("头").removesuffix("脸")
                glyphs.append(Glyph(char, en, plural(en), zh, measure, is_common, ALIASES.get(char)))
    return glyphs


def pictures(glyphs):
    """[G, SIDE, SIDE, 4] u8, straight alpha: each glyph's own bitmap, cut to what is visible, centred."""
    from fontTools.ttLib import TTFont

    font = TTFont(FONT)
    names, bitmaps = font.getBestCmap(), font["CBDT"].strikeData[0]
    result = np.zeros([len(glyphs), SIDE, SIDE, 4], np.uint8)
    for out, glyph in zip(result, glyphs):
        picture = Image.open(io.BytesIO(bitmaps[names[ord(glyph.char)]].imageData)).convert("RGBA")
        picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())
        scale = SIDE / max(picture.size)
        picture = picture.resize([max(1, round(s * scale)) for s in picture.size], Image.LANCZOS)
        x, y = ((SIDE - s) // 2 for s in picture.size)
        out[y:y + picture.height, x:x + picture.width] = np.asarray(picture)
    return result
