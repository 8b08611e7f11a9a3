"""The words by which shops name columns and event types, in several languages."""

import re
import unicodedata


def plain(text: str) -> str:
    """Text without accents."""
    apart = unicodedata.normalize("NFKD", text).replace("ß", "ss")
    return "".join(sign for sign in apart if not unicodedata.combining(sign))


USER = (
    "userid user customerid customer customernumber customerno custid visitorid visitor clientid client fullvisitorid"
    " userpseudoid memberid member buyerid buyer reviewerid reviewer accountid personid person shopperid uid deviceid"
    " cookieid steamid msno householdid householdkey profileid userhash username author userno usernr kundennr kundennummer"
    " kundenid kunde nutzer nutzerid benutzer benutzerid utilisateur idutilisateur utilisateurid clienteid cliente"
    " idcliente idclient usuario idusuario usuarioid acheteur utente idutente klant klantid klantnummer"
    " gebruiker klient klientid comprador kund kundid musteri клиент пользователь покупатель 用户 用户id 用户编号 会员"
    " 会员id 顾客id 买家id 客户id ユーザー ユーザーid 会員id 顧客id العميل المستخدم email emailaddress mail anonymousid"
)
SESSION = (
    "sessionid session usersession sessionkey gasessionid visitid visit sessid sitzung sitzungsid idsession idsesion"
    " sesion sesionid sessione idsessione sessie sessieid sessao sesja сессия 会话 会话id セッション セッションid الجلسة"
)
BASKET = (
    "invoice invoiceno invoiceid orderid ordernumber orderno basketid transactionid rechnung rechnungsnr receiptid"
    " bestellnummer bestellnr commande ordine ordinenumero bestelnummer pedido zamowienie заказ 订单 订单编号 订单号 注文番号"
)
ITEM = (
    "itemid item productid product productcode productsku productnumber articleid article articlenumber asin parentasin"
    " sku skuid stockcode movieid trackid songid artistid albumid bookid isbn gameid appid variantid goodsid businessid"
    " contentid newsid videoid pid iid artikel artikelnr artikelnummer artikelid produkt produktid produktnr produitid"
    " produit idproduit idarticle producto productoid idproducto articulo idarticulo aid"
    " prodotto idprodotto articolo idarticolo artikelcode produto idproduto produktid towar urun urunid товар продукт"
    " артикул المنتج 商品 商品id 商品编号 物品id 产品id"
)
TIME = (
    "timestamp time eventtime eventtimestamp datetime date ts eventdate createdat created createtime occurredat"
    " unixreviewtime unixtime unixseconds unixms timestampms visitstarttime tdat invoicedate orderdate ordertime"
    " purchasedate transactiondate reviewtime clicktime servertime epoch zeit zeitpunkt zeitstempel datum bestelldatum"
    " kaufdatum rechnungsdatum horodatage heure dateachat datecommande fecha fechahora hora fechacompra fechapedido"
    " data dataora dataordine dataacquisto tijd tijdstip besteldatum datahora datapedido czas tid tarih время дата"
    " التاريخ الوقت 时间 时间戳 日期 行为时间 下单时间 日時 日付"
)
EVENT_TYPE = (
    "eventtype event evt eventname behavior behaviour behaviortype behaviourtype behaviorname action actiontype activity"
    " type interaction interactiontype ereignis ereignistyp aktion evenement typeevenement evento tipoevento accion"
    " azione actie acao akcja действие событие الحدث 行为 行为类型 事件 操作 イベント 行動"
)
EVENT_ID = "eventid eventuuid hitid insertid messageid"
ORDER = (
    "order sequence seq seqno sequencenumber position pos step clickorder eventorder addtocartorder timeframe transtime"
    " rank index hitnumber place"
)
DAY_NUMBER = "day daynumber dayno ordernumber ordernr orderno visitnumber visitno sessionnumber position step"
TITLE = (
    "title name productname itemname producttitle itemtitle prodname articlename displayname gamename movietitle titel"
    " bezeichnung artikelname produktname artikelbezeichnung titre nom nomproduit titulo nombre nombreproducto"
    " description desc productdescription itemdescription 标题 名称 商品名称 商品标题"
)
CATEGORY = (
    "category categoryname categories categorycode producttype producttypename itemcategory maincategory genre genres"
    " department departmentname productgroup productgroupname attrtproducttype kategorie warengruppe produktgruppe"
    " categorie rayon categoria 类目 类别 分类 categoryid"
)
AVAILABLE = (
    "available instock availability isavailable stock stocklevel inventory onstock active isactive verfugbar lieferbar"
    " bestand lagerbestand disponible enstock existencias 库存"
)
DESCRIPTION = (
    "description longdescription shortdescription desc detaildesc details text summary overview beschreibung"
    " artikelbeschreibung descripcion detail 描述 商品描述"
)
QUANTITY = (
    "quantity qty quantite amountsold units menge anzahl stuckzahl stueckzahl cantidad numunits"
    " quantita aantal quantidade ilosc количество الكمية 数量"
)
PRICE = "price unitprice preis einzelpreis prix precio saleprice amount revenue sales 价格"
STATUS = "status orderstatus state bestellstatus statut estado"
RATING = "rating ratings score overall stars bewertung"

_NAMES = {
    "user": USER,
    "session": SESSION,
    "basket": BASKET,
    "item": ITEM,
    "time": TIME,
    "event_type": EVENT_TYPE,
    "event_id": EVENT_ID,
    "order": ORDER,
    "day_number": DAY_NUMBER,
    "title": TITLE,
    "category": CATEGORY,
    "available": AVAILABLE,
    "description": DESCRIPTION,
    "quantity": QUANTITY,
    "price": PRICE,
    "status": STATUS,
    "rating": RATING,
}
NAMES = {role: tuple(plain(words).split()) for role, words in _NAMES.items()}
"""Role → the names of columns that play it, the usual ones first."""

_PARTS = {
    "user": "user customer visitor client member buyer reviewer kunde kunden usuario cliente klant email mail"
    " 用户 会员 客户 顾客 买家 ユーザー 会員 顧客 клиента العميل",
    "session": "session visit sitzung",
    "item": "item product article asin sku stockcode movie artikel produkt model game track song book produit producto"
    " prodotto produto 商品 产品 物品 товара المنتج",
    "time": "time timestamp date datetime datum zeit fecha timestamps stamp dttm ts at 时间 日期 日時 التاريخ",
    "event_type": "event behavior behaviour action",
    "title": "title name titel titre titulo",
    "category": "category genre kategorie categorie",
    "description": "description beschreibung",
    "quantity": "quantity qty menge aantal 数量",
    "status": "status",
}
PARTS = {role: frozenset(plain(words).split()) for role, words in _PARTS.items()}
"""Role → words that hint at it as part of a longer name."""
_ID_ENDINGS = ("id", "no", "nr", "number", "key", "hash")

_EVENTS = {
    "": "remove removed delete deleted cancel canceled cancelled return returned refund refunded unfav unlike dislike"
    " uncollect removefromcart search login logout register signup scroll impression share session start"
    " storniert storno retoure suche refunded voided failed abandoned reso annullato 搜索 退款",
    "favourite": "fav favourite favorite wish wishlist addtowishlist like liked bookmark collect save"
    " merkzettel merkliste wunschliste wunschzettel favori favoris favorito favoritos"
    " preferiti избранное 收藏 喜欢 お気に入り",
    "cart": "cart addtocart basket bag addtobasket atc checkout warenkorb einkaufswagen panier carrito cesta"
    " carrello carrinho winkelwagen корзина カート 加购 加购物车 购物车 加入购物车",
    "purchase": "purchase purchased buy bought order ordered transaction sale sold pay paid payment conversion"
    " kauf gekauft kaufen bestellung bestellt achat achete commande compra comprado pedido acquisto acquistato"
    " aankoop zakup покупка заказ 购买 下单 支付 成交 購入 注文",
    "view": "view viewed views click clicked pv pageview visit detail details browse read watch watched play"
    " played listen stream open seen ansicht angesehen gesehen klick vue consultation clic vista visto ver visualizzazione"
    " visualizacao bekeken просмотр 閲覧 浏览 点击 查看",
}
_WORDS = {word: ours for ours, words in _EVENTS.items() for word in plain(words).split()}
_STRENGTH = ("", "purchase", "cart", "favourite", "view")
"""If a type has words of several kinds, the first of these counts: `remove_from_cart` is no event for us."""

_FILES = {
    "purchase": "buy buys purchase purchases order orders transaction transactions retail sale sales invoice invoices"
    " basket baskets bestellungen kaeufe verkauf commandes compras pedidos 订单",
    "view": "click clicks clickstream view views event events log logs behavior userbehavior ratings rating reviews"
    " interactions data",
}
_FILE_WORDS = {word: ours for ours, words in _FILES.items() for word in plain(words).split()}


def words_of(text: str) -> list[str]:
    """The words of a name in lower case, without accents: `unixReviewTime` → unix, review, time."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", plain(text))
    return re.findall(r"[a-z0-9]+|[^\W\d_a-z]+", apart.lower())


def role_score(name: str, role: str) -> float:
    """How well a column's name fits a role: 0 not at all, from 1 to 2 by a part of it, from 3 to 4 exactly."""
    words = words_of(name.partition(":")[0])
    whole = "".join(words)
    if whole in NAMES[role]:
        return 4 - NAMES[role].index(whole) / len(NAMES[role])
    hints = [place for place, word in enumerate(words) if _hints_at(word, role)]
    if not hints:
        return 0
    return 2 if words[-1] in _ID_ENDINGS or hints[-1] == len(words) - 1 else 1


def _hints_at(word: str, role: str) -> bool:
    """Whether a word is a part that hints at a role. Chinese and Japanese write no blanks between words."""
    parts = PARTS.get(role, frozenset())
    return word in parts or (not word.isascii() and any(part in word for part in parts if not part.isascii()))


def is_known_name(name: str) -> bool:
    """Whether a field of a first line is a column's name that we know, longer than one letter."""
    whole = "".join(words_of(name.partition(":")[0]))
    return len(whole) > 2 and any(whole in names for names in NAMES.values()) and whole not in _WORDS


def event_type_of(value: str) -> str | None:
    """Our type for a shop's event type; empty for a known one that is no event of ours; None for an unknown one."""
    words = words_of(value)
    single = (word if word in _WORDS else word.removesuffix("s") for word in (*words, "".join(words)))
    found = {_WORDS[word] for word in single if word in _WORDS}
    added = "cart" if {"add", "added"} & {*words} else None
    return next((ours for ours in _STRENGTH if ours in found), added)


def type_of_file(name: str) -> str | None:
    """What a file's name says about the type of its events: `purchase`, `view` or None."""
    return next((_FILE_WORDS[word] for word in words_of(name.replace(".", " ")) if word in _FILE_WORDS), None)
