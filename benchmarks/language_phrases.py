# ruff: noqa: E501
"""The same requests in six languages: line k of a section says the same in each of them.

``{slot}`` is filled with what an item drew, by the same index in every language: the numbers ``a``
to ``d``, ``code``, ``name``, ``city``, ``topic`` and ``other`` (a second topic), ``message`` (a
complaint, praise or a question), ``sentence`` and ``tongue`` (what to translate, into what). A line
that begins with ``!`` asks for something hard. Names are invented.
"""

from __future__ import annotations

from collections.abc import Mapping

Phrases = Mapping[str, tuple[str, ...]]

NAMES = ("Maya", "Tom", "Elena", "Priya", "Lucas", "Ingrid", "Omar", "Hannah", "Daniel", "Clara")


def _sections(text: str) -> Phrases:
    """Lines by section, whose name stands in brackets above them."""
    found: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("["):
            lines = found.setdefault(line[1:-1], [])
        else:
            lines.append(line)
    return {name: tuple(lines) for name, lines in found.items()}


ENGLISH = _sections("""
[mathematics]
A baker sells {a} loaves in the morning and {b} in the afternoon. How many loaves is that?
{name} has {a} apples and buys {c} bags with {d} apples each. How many apples are there now?
!A train leaves {city} at {b} km/h, and {c} hours later a second one follows. How many kilometres is the first one ahead by then?
!{name} saves {a} euros a week for {c} years of 52 weeks and then spends {d} euros. How many euros are left?
[mathematics, further]
Show each step.
Check the result in a second way.
[extraction]
Give me the order number from this message: {message} The order is {code}.
Which order number does this email mention? {message} It is about {code}, from {city}.
Find the order number in the text and return only that. {name} writes from {city}: {message} See {code}.
[extraction, further]
Answer with nothing else.
Say so if there is none.
[classification]
Is this message a complaint, praise or a question? {message}
Classify the message as complaint, praise or question and answer with one word: {message}
Which label fits best: complaint, praise or question? {name} from {city} wrote: {message}
[classification, further]
Give the words that decided it.
Say how sure you are, from 0 to 100.
[translation]
Translate into {tongue}: {sentence}
How do you say this in {tongue}? {sentence}
Please translate this sentence into {tongue} for a customer in {city}: {sentence}
[translation, further]
Use a formal tone.
Keep names and numbers as they are.
[qa]
What is {topic} and why does it matter?
How does {topic} work? Explain it in simple words.
What mistakes do people make most often with {topic}?
When should a small company in {city} think about {topic}?
[qa, further]
Give an example from {city}.
Explain why experts disagree about it.
[analysis]
!Analyse how {topic} affects {other} over the next ten years.
!Compare {topic} and {other} as priorities for a town like {city}, and weigh cost against risk.
!Design a plan for {city} that improves {topic} with a budget of {a} thousand euros.
[analysis, further]
List the risks and how to test each.
Explain why the obvious answer may be wrong.
[topic]
inflation
recycling
compound interest
vaccination
public transport
remote work
solar energy
sleep
home insurance
data protection
[city]
London
Madrid
Berlin
Paris
Lisbon
Beijing
[message]
The lamp arrived broken and nobody answers the phone.
Thank you, the chair is wonderful and came early!
Can I still change the delivery address?
I have paid twice and want my money back at once.
Great service, I will gladly buy from you again!
How long does the guarantee for the bicycle last?
[label]
complaint
praise
question
[sentence]
The meeting begins at nine o'clock.
We will send the invoice tomorrow.
My sister lives in a small house by the sea.
The children have already eaten.
[tongue]
English
Spanish
German
French
Portuguese
Chinese
""")

SPANISH = _sections("""
[mathematics]
Un panadero vende {a} panes por la mañana y {b} por la tarde. ¿Cuántos panes son en total?
{name} tiene {a} manzanas y compra {c} bolsas con {d} manzanas cada una. ¿Cuántas manzanas hay ahora?
!Un tren sale de {city} a {b} km/h y {c} horas después lo sigue un segundo tren. ¿Cuántos kilómetros de ventaja lleva entonces el primero?
!{name} ahorra {a} euros por semana durante {c} años de 52 semanas y luego gasta {d} euros. ¿Cuántos euros le quedan?
[mathematics, further]
Muestra cada paso.
Comprueba el resultado de otra manera.
[extraction]
Dame el número de pedido de este mensaje: {message} El pedido es {code}.
¿Qué número de pedido menciona este correo? {message} Se trata de {code}, desde {city}.
Busca el número de pedido en el texto y devuelve solo eso. {name} escribe desde {city}: {message} Véase {code}.
[extraction, further]
No respondas nada más.
Dilo si no hay ninguno.
[classification]
¿Este mensaje es una queja, un elogio o una pregunta? {message}
Clasifica el mensaje como queja, elogio o pregunta y responde con una palabra: {message}
¿Qué etiqueta encaja mejor: queja, elogio o pregunta? {name} de {city} escribió: {message}
[classification, further]
Indica las palabras que lo decidieron.
Di cuán seguro estás, de 0 a 100.
[translation]
Traduce al {tongue}: {sentence}
¿Cómo se dice esto en {tongue}? {sentence}
Por favor, traduce esta frase al {tongue} para un cliente de {city}: {sentence}
[translation, further]
Usa un tono formal.
Deja los nombres y los números como están.
[qa]
¿Qué es {topic} y por qué importa?
¿Cómo funciona {topic}? Explícalo con palabras sencillas.
¿Qué errores comete más a menudo la gente con {topic}?
¿Cuándo debería una pequeña empresa de {city} pensar en {topic}?
[qa, further]
Da un ejemplo de {city}.
Explica por qué los expertos no se ponen de acuerdo.
[analysis]
!Analiza cómo afecta {topic} a {other} durante los próximos diez años.
!Compara {topic} y {other} como prioridades para una ciudad como {city}, y sopesa el coste y el riesgo.
!Diseña un plan para {city} que mejore {topic} con un presupuesto de {a} mil euros.
[analysis, further]
Enumera los riesgos y cómo comprobar cada uno.
Explica por qué la respuesta obvia puede estar equivocada.
[topic]
la inflación
el reciclaje
el interés compuesto
la vacunación
el transporte público
el teletrabajo
la energía solar
el sueño
el seguro de hogar
la protección de datos
[city]
Londres
Madrid
Berlín
París
Lisboa
Pekín
[message]
La lámpara llegó rota y nadie contesta el teléfono.
¡Gracias, la silla es maravillosa y llegó antes de tiempo!
¿Puedo cambiar todavía la dirección de entrega?
He pagado dos veces y quiero mi dinero de vuelta de inmediato.
¡Gran servicio, con gusto les volveré a comprar!
¿Cuánto dura la garantía de la bicicleta?
[label]
queja
elogio
pregunta
[sentence]
La reunión empieza a las nueve.
Enviaremos la factura mañana.
Mi hermana vive en una casa pequeña junto al mar.
Los niños ya han comido.
[tongue]
inglés
español
alemán
francés
portugués
chino
""")

GERMAN = _sections("""
[mathematics]
Ein Bäcker verkauft {a} Brote am Vormittag und {b} am Nachmittag. Wie viele Brote sind das?
{name} hat {a} Äpfel und kauft {c} Tüten mit je {d} Äpfeln. Wie viele Äpfel sind es jetzt?
!Ein Zug verlässt {city} mit {b} km/h, und {c} Stunden später folgt ein zweiter. Wie viele Kilometer Vorsprung hat der erste bis dahin?
!{name} spart {c} Jahre mit je 52 Wochen lang {a} Euro pro Woche und gibt dann {d} Euro aus. Wie viele Euro bleiben übrig?
[mathematics, further]
Zeige jeden Schritt.
Prüfe das Ergebnis auf einem zweiten Weg.
[extraction]
Gib mir die Bestellnummer aus dieser Nachricht: {message} Die Bestellung ist {code}.
Welche Bestellnummer nennt diese E-Mail? {message} Es geht um {code}, aus {city}.
Suche die Bestellnummer im Text und gib nur sie zurück. {name} schreibt aus {city}: {message} Siehe {code}.
[extraction, further]
Antworte mit nichts anderem.
Sage es, wenn es keine gibt.
[classification]
Ist diese Nachricht eine Beschwerde, ein Lob oder eine Frage? {message}
Ordne die Nachricht als Beschwerde, Lob oder Frage ein und antworte mit einem Wort: {message}
Welche Bezeichnung passt am besten: Beschwerde, Lob oder Frage? {name} aus {city} schrieb: {message}
[classification, further]
Nenne die Wörter, die den Ausschlag gaben.
Sage, wie sicher du bist, von 0 bis 100.
[translation]
Übersetze in die Sprache {tongue}: {sentence}
Wie sagt man das auf {tongue}? {sentence}
Bitte übersetze diesen Satz für einen Kunden in {city} in die Sprache {tongue}: {sentence}
[translation, further]
Verwende einen förmlichen Ton.
Lass Namen und Zahlen, wie sie sind.
[qa]
Was bedeutet {topic} und warum ist das wichtig?
Wie funktioniert {topic}? Erkläre es mit einfachen Worten.
Welche Fehler machen die Leute beim Thema {topic} am häufigsten?
Wann sollte eine kleine Firma in {city} über {topic} nachdenken?
[qa, further]
Gib ein Beispiel aus {city}.
Erkläre, warum die Fachleute sich darüber streiten.
[analysis]
!Untersuche, wie sich {topic} in den nächsten zehn Jahren auf {other} auswirkt.
!Vergleiche {topic} und {other} als Aufgaben für eine Stadt wie {city} und wäge Kosten gegen Risiken ab.
!Entwirf einen Plan für {city}, der beim Thema {topic} mit {a} tausend Euro etwas verbessert.
[analysis, further]
Liste die Risiken auf und wie man jedes prüft.
Erkläre, warum die naheliegende Antwort falsch sein kann.
[topic]
Inflation
Wiederverwertung
Zinseszins
Impfung
Nahverkehr
Heimarbeit
Sonnenenergie
Schlaf
Hausratversicherung
Datenschutz
[city]
London
Madrid
Berlin
Paris
Lissabon
Peking
[message]
Die Lampe kam kaputt an und niemand geht ans Telefon.
Danke, der Stuhl ist wunderbar und kam früher als gedacht!
Kann ich die Lieferadresse noch ändern?
Ich habe zweimal bezahlt und will mein Geld sofort zurück.
Toller Service, ich kaufe gern wieder bei Ihnen!
Wie lange gilt die Garantie für das Fahrrad?
[label]
Beschwerde
Lob
Frage
[sentence]
Die Besprechung beginnt um neun Uhr.
Wir schicken die Rechnung morgen.
Meine Schwester wohnt in einem kleinen Haus am Meer.
Die Kinder haben schon gegessen.
[tongue]
Englisch
Spanisch
Deutsch
Französisch
Portugiesisch
Chinesisch
""")

FRENCH = _sections("""
[mathematics]
Un boulanger vend {a} pains le matin et {b} l'après-midi. Combien de pains cela fait-il ?
{name} a {a} pommes et achète {c} sacs de {d} pommes chacun. Combien de pommes y a-t-il maintenant ?
!Un train quitte {city} à {b} km/h, et {c} heures plus tard un deuxième le suit. Combien de kilomètres d'avance le premier a-t-il alors ?
!{name} épargne {a} euros par semaine pendant {c} ans de 52 semaines, puis dépense {d} euros. Combien d'euros reste-t-il ?
[mathematics, further]
Montre chaque étape.
Vérifie le résultat d'une autre manière.
[extraction]
Donne-moi le numéro de commande de ce message : {message} La commande est {code}.
Quel numéro de commande ce courriel mentionne-t-il ? {message} Il s'agit de {code}, depuis {city}.
Trouve le numéro de commande dans le texte et ne renvoie que cela. {name} écrit de {city} : {message} Voir {code}.
[extraction, further]
Ne réponds rien d'autre.
Dis-le s'il n'y en a pas.
[classification]
Ce message est-il une plainte, un éloge ou une question ? {message}
Classe le message comme plainte, éloge ou question et réponds par un seul mot : {message}
Quelle étiquette convient le mieux : plainte, éloge ou question ? {name} de {city} a écrit : {message}
[classification, further]
Donne les mots qui ont décidé.
Dis à quel point tu es sûr, de 0 à 100.
[translation]
Traduis en {tongue} : {sentence}
Comment dit-on cela en {tongue} ? {sentence}
Merci de traduire cette phrase en {tongue} pour un client de {city} : {sentence}
[translation, further]
Emploie un ton soutenu.
Laisse les noms et les nombres tels quels.
[qa]
Qu'est-ce que {topic} et pourquoi est-ce important ?
Comment fonctionne {topic} ? Explique-le avec des mots simples.
Quelles erreurs les gens font-ils le plus souvent avec {topic} ?
Quand une petite entreprise de {city} devrait-elle penser à {topic} ?
[qa, further]
Donne un exemple de {city}.
Explique pourquoi les experts ne sont pas d'accord.
[analysis]
!Analyse comment {topic} influence {other} au cours des dix prochaines années.
!Compare {topic} et {other} comme priorités pour une ville comme {city}, et pèse le coût et le risque.
!Conçois un plan pour {city} qui améliore {topic} avec un budget de {a} mille euros.
[analysis, further]
Énumère les risques et la façon de vérifier chacun.
Explique pourquoi la réponse évidente peut être fausse.
[topic]
l'inflation
le recyclage
l'intérêt composé
la vaccination
le transport public
le télétravail
l'énergie solaire
le sommeil
l'assurance habitation
la protection des données
[city]
Londres
Madrid
Berlin
Paris
Lisbonne
Pékin
[message]
La lampe est arrivée cassée et personne ne répond au téléphone.
Merci, la chaise est magnifique et elle est arrivée en avance !
Puis-je encore changer l'adresse de livraison ?
J'ai payé deux fois et je veux être remboursé tout de suite.
Excellent service, je rachèterai volontiers chez vous !
Combien de temps dure la garantie du vélo ?
[label]
plainte
éloge
question
[sentence]
La réunion commence à neuf heures.
Nous enverrons la facture demain.
Ma sœur habite une petite maison au bord de la mer.
Les enfants ont déjà mangé.
[tongue]
anglais
espagnol
allemand
français
portugais
chinois
""")

PORTUGUESE = _sections("""
[mathematics]
Um padeiro vende {a} pães de manhã e {b} à tarde. Quantos pães são ao todo?
{name} tem {a} maçãs e compra {c} sacos com {d} maçãs cada um. Quantas maçãs há agora?
!Um comboio parte de {city} a {b} km/h e, {c} horas depois, segue-o um segundo. Quantos quilómetros de avanço tem então o primeiro?
!{name} poupa {a} euros por semana durante {c} anos de 52 semanas e depois gasta {d} euros. Quantos euros sobram?
[mathematics, further]
Mostra cada passo.
Verifica o resultado de outra maneira.
[extraction]
Dá-me o número da encomenda desta mensagem: {message} A encomenda é {code}.
Que número de encomenda menciona este e-mail? {message} Trata-se de {code}, de {city}.
Encontra o número da encomenda no texto e devolve apenas isso. {name} escreve de {city}: {message} Ver {code}.
[extraction, further]
Não respondas mais nada.
Diz se não houver nenhum.
[classification]
Esta mensagem é uma reclamação, um elogio ou uma pergunta? {message}
Classifica a mensagem como reclamação, elogio ou pergunta e responde com uma só palavra: {message}
Que etiqueta serve melhor: reclamação, elogio ou pergunta? {name} de {city} escreveu: {message}
[classification, further]
Indica as palavras que o decidiram.
Diz quão seguro estás, de 0 a 100.
[translation]
Traduz para {tongue}: {sentence}
Como se diz isto em {tongue}? {sentence}
Por favor, traduz esta frase para {tongue} para um cliente em {city}: {sentence}
[translation, further]
Usa um tom formal.
Deixa os nomes e os números como estão.
[qa]
O que é {topic} e porque é que isso importa?
Como funciona {topic}? Explica com palavras simples.
Que erros cometem as pessoas mais vezes com {topic}?
Quando deve uma pequena empresa de {city} pensar sobre {topic}?
[qa, further]
Dá um exemplo de {city}.
Explica porque é que os especialistas não estão de acordo.
[analysis]
!Analisa como {topic} afeta {other} nos próximos dez anos.
!Compara {topic} e {other} como prioridades para uma cidade como {city}, e pondera o custo e o risco.
!Desenha um plano para {city} que melhore {topic} com um orçamento de {a} mil euros.
[analysis, further]
Enumera os riscos e como testar cada um.
Explica porque é que a resposta óbvia pode estar errada.
[topic]
a inflação
a reciclagem
o juro composto
a vacinação
o transporte público
o teletrabalho
a energia solar
o sono
o seguro da casa
a proteção de dados
[city]
Londres
Madrid
Berlim
Paris
Lisboa
Pequim
[message]
O candeeiro chegou partido e ninguém atende o telefone.
Obrigado, a cadeira é maravilhosa e chegou antes do prazo!
Ainda posso mudar a morada de entrega?
Paguei duas vezes e quero o meu dinheiro de volta já.
Ótimo serviço, voltarei a comprar convosco com gosto!
Quanto tempo dura a garantia da bicicleta?
[label]
reclamação
elogio
pergunta
[sentence]
A reunião começa às nove horas.
Enviaremos a fatura amanhã.
A minha irmã vive numa casa pequena à beira do mar.
As crianças já comeram.
[tongue]
inglês
espanhol
alemão
francês
português
chinês
""")

CHINESE = _sections("""
[mathematics]
面包师上午卖出{a}个面包,下午卖出{b}个。一共卖出多少个面包?
{name}有{a}个苹果,又买了{c}袋,每袋{d}个苹果。现在一共有多少个苹果?
!一列火车以每小时{b}公里的速度离开{city},{c}小时后第二列火车出发。那时第一列火车领先多少公里?
!{name}每周存{a}欧元,存了{c}年,每年52周,然后花掉{d}欧元。还剩多少欧元?
[mathematics, further]
请写出每一步。
请用另一种方法检查结果。
[extraction]
请给出这条消息里的订单号:{message}订单是{code}。
这封邮件提到了哪个订单号?{message}这是关于{code}的,来自{city}。
请在文中找出订单号,只返回订单号。{name}从{city}来信:{message}见{code}。
[extraction, further]
不要回答别的内容。
如果没有,请说明。
[classification]
这条消息是投诉、表扬还是提问?{message}
请把这条消息归类为投诉、表扬或提问,只用一个词回答:{message}
哪个标签最合适:投诉、表扬还是提问?{city}的{name}写道:{message}
[classification, further]
请给出决定性的词语。
请说明你有多大把握,从0到100。
[translation]
请翻译成{tongue}:{sentence}
这句话用{tongue}怎么说?{sentence}
请为{city}的一位客户把这句话翻译成{tongue}:{sentence}
[translation, further]
请使用正式的语气。
请保留名字和数字。
[qa]
什么是{topic},它为什么重要?
{topic}是怎么回事?请用简单的话解释。
人们在{topic}方面最常犯哪些错误?
{city}的小公司什么时候应该考虑{topic}?
[qa, further]
请举一个{city}的例子。
请解释专家们为什么意见不一。
[analysis]
!请分析{topic}在未来十年如何影响{other}。
!请比较{topic}和{other}作为{city}这样的城市的优先事项,并权衡成本与风险。
!请为{city}设计一个计划,用{a}千欧元的预算改善{topic}。
[analysis, further]
请列出各种风险以及如何检验每一种。
请解释为什么显而易见的答案可能是错的。
[topic]
通货膨胀
垃圾回收
复利
疫苗接种
公共交通
远程办公
太阳能
睡眠
家庭保险
数据保护
[city]
伦敦
马德里
柏林
巴黎
里斯本
北京
[message]
台灯送到时已经坏了,电话也没有人接。
谢谢,椅子非常好,而且提前送到了!
我还可以更改送货地址吗?
我付了两次款,请立即退钱。
服务很好,我很乐意再来购买!
自行车的保修期有多长?
[label]
投诉
表扬
提问
[sentence]
会议九点开始。
我们明天寄发票。
我姐姐住在海边的一座小房子里。
孩子们已经吃过饭了。
[tongue]
英语
西班牙语
德语
法语
葡萄牙语
中文
""")

LANGUAGES: Mapping[str, Phrases] = {
    "English": ENGLISH,
    "Spanish": SPANISH,
    "German": GERMAN,
    "French": FRENCH,
    "Portuguese": PORTUGUESE,
    "Chinese": CHINESE,
}
