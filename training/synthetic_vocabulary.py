"""Words and templates behind the synthetic queries, in English and in Spanish.

``{slot}`` is filled from ``words`` of the same language, from a few number slots, or by ``{hard}``,
which writes nothing and marks a template that is hard whatever fills it. People, companies and
products are invented. Lists are written as one text, an item a line or separated by ``|``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """What one language is written from.

    ``cores`` open a query of a task, ``clauses`` are its further demands, ``sentences`` make the
    passage that the ``passage_tasks`` work on, and ``contractions`` are replaced at the end.
    """

    words: Mapping[str, tuple[str, ...]]
    openers: tuple[str, ...]
    cores: Mapping[str, tuple[str, ...]]
    clauses: Mapping[str, tuple[str, ...]]
    sentences: tuple[str, ...]
    contractions: tuple[tuple[str, str], ...] = ()
    passage_tasks: frozenset[str] = frozenset(
        {"extraction", "classification", "translation", "summarising"}
    )


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split("|"))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip().replace("\\n", "\n") for line in text.strip().splitlines())


_SHARED: Mapping[str, tuple[str, ...]] = {
    "person": _items(
        "Maya Chen|Tom Okafor|Elena Ruiz|Priya Nair|Lucas Ferreira|Ingrid Solberg|Omar Haddad|"
        "Sofía Méndez|Daniel Kowalski|Aisha Bello|Javier Ortega|Hannah Weiss|Kenji Mori|Clara Vidal"
    ),
    "company": _items(
        "Northwind Freight|Halden Dental|Brightmoor Energy|Casa Lumbre|Vela Textiles|Ostrava Tools|"
        "Pinecrest Clinics|Banco Alameda|Kestrel Games|Harbor & Pine|Tejidos Aurora|Quillmark Press"
    ),
    "lang": _items("Python|TypeScript|Go|Rust|Java|SQL|C++|Kotlin"),
    "code": _items("INV-{n4}|PO-{n4}|ES-{n3}-{n2}|TK{n4}|#{n4}"),
    "email": _items("billing@example.com|ops.{n2}@example.org|sales{n2}@example.net"),
    "money": _items("${n3}.{n2}|${n4}|{n3} EUR|{n4},{n2} €|£{n3}"),
    "snippet": _lines(
        r"""
        ```\ndef total(items):\n    s = 0\n    for i in range(1, len(items)):\n        s += items[i]["price"] * {small}\n    return s\n```
        ```\nfunction page(rows, n) {{\n  return rows.slice(n * {n2}, n * {n2} + 1);\n}}\n```
        ```\nSELECT c.name, SUM(o.total) FROM orders o JOIN customers c ON c.id = o.id WHERE o.total > {n3};\n```
        ```\nfn mean(v: &[f64]) -> f64 {{ v.iter().sum::<f64>() / (v.len() - {small}) as f64 }}\n```
        ```\nfor (int i = 0; i <= n; i++) if (a[i] % {small} == 0) count++;\n```
        """  # noqa: E501
    ),
}

_ENGLISH = Language(
    words={
        **_SHARED,
        "city": _items("Leeds|Austin|Toronto|Valencia|Bogotá|Dublin|Auckland|Lisbon|Denver|Cork"),
        "date": _items("{month} {day}|{day} {month} {year}|the {day}th of {month}"),
        "month": _items(
            "January|February|March|April|May|June|July|August|September|October|November|December"
        ),
        "team": _items("support|billing|logistics|sales|legal|warehouse|HR|finance"),
        "thing": _items(
            "wireless headset|standing desk|coffee grinder|blue backpack|phone charger|"
            "garden hose|swivel chair|rain jacket|desk lamp|travel mug|laptop stand|water filter"
        ),
        "expert_thing": _items(
            "centrifugal chiller|drug-eluting stent|harmonic drive gearbox|mass spectrometer|"
            "galvanic isolator|hydrostatic transmission|fluoropolymer gasket|cryogenic dewar"
        ),
        "topic": _items(
            "inflation|remote work|compound interest|vaccination|recycling|online shopping|"
            "electric cars|sleep|public transport|the water cycle|customer loyalty|tax returns|"
            "solar panels|school meals|free shipping|data backups|holiday travel|home insurance"
        ),
        "expert_topic": _items(
            "subrogation clauses|pharmacokinetic half-life|eigenvalue degeneracy|"
            "heteroskedastic residuals|transfer pricing|Byzantine fault tolerance|"
            "stochastic volatility|epigenetic methylation|mezzanine financing|"
            "quorum sensing|isotopic fractionation|promissory estoppel|write amplification"
        ),
        "quality": _items("cost|latency|reliability|privacy|ease of use|energy use|staffing"),
        "label": _items("urgent|billing|complaint|praise|refund|spam|question|shipping|technical"),
        "field": _items("name|date|amount|city|order number|email|product|deadline|company"),
        "tongue": _items("Spanish|French|German|Portuguese|Italian"),
        "job": _items(
            "reverses a linked list|removes duplicate rows|parses a date such as {date}|"
            "groups orders by city|finds the {n2} largest values|validates an email address|"
            "merges two sorted arrays|counts words in a file|rounds prices to {small} decimals"
        ),
        "hard_job": _items(
            "schedules {n2} jobs with dependencies on {small} workers|keeps an LRU cache that is "
            "safe across threads|streams the median of {n4} sensors|diffs two abstract syntax "
            "trees|retries idempotent requests with jittered backoff"
        ),
        "system": _items(
            "booking platform|payment service|warehouse tracker|chat backend|reporting pipeline|"
            "loyalty programme|clinic calendar|recommendation engine"
        ),
    },
    openers=("", "", "", "", "Hi!", "Hello team.", "Quick one:", "For the {team} team:"),
    cores={
        "extraction": _lines(
            """
            Extract the {field} and the {field} from the text below.
            List the {field} mentioned in this message.
            Parse this note and give me every {field}.
            Pull out each {field} and {field} as JSON.
            What {field} does this email mention?
            Find the {field} in the following text and return only that.
            """
        ),
        "classification": _lines(
            """
            Classify this message as {label}, {label} or {label}.
            Is the following message {label}? Answer yes or no.
            Which label fits best: {label}, {label}, {label} or {label}?
            Tag this ticket for the {team} or the {team} team.
            Is the tone of this text positive, neutral or negative?
            """
        ),
        "translation": _lines(
            """
            Translate this into {tongue}.
            Translate the message below to {tongue} for a customer in {city}.
            How do you say this in {tongue}?
            Give me this text in {tongue} for {person}.
            """
        ),
        "summarising": _lines(
            """
            Summarize briefly the text below.
            Summarize this for {person} in {small} bullet points.
            Give me the main points of these notes in under {n2} words.
            Write a one-line summary and a subject line for this message.
            Turn this update into a short status report for the {team} team.
            """
        ),
        "qa": _lines(
            """
            What is {topic} and why does it matter for a {system}?
            How does {topic} work? I am writing for {company}.
            When should a company in {city} care about {topic}?
            What is the difference between {topic} and {topic}?
            How long does a {thing} usually last with {n2} hours of use a week?
            Can I return a {thing} bought on {date} for {money}?
            What are {small} common mistakes people make with {topic}?
            """
        ),
        "code": _lines(
            """
            Write a {lang} function that {job}.
            Write a {lang} program that {job} and then {job}.
            Fix this code, it fails for an input of {n2} rows:\\n\\n{snippet}\\n\\n
            Refactor this and explain why it is slow with {n4} rows:\\n\\n{snippet}\\n\\n
            {hard}Implement a {lang} module that {hard_job}.
            {hard}Debug a deadlock in our {lang} {system} that appears under {n3} requests a second.
            {hard}Optimize a {lang} routine that {hard_job} for the {system} of {company}.
            """
        ),
        "mathematics": _lines(
            """
            What is {n3} x {n2} + {n3}?
            A train leaves {city} at {n2} km/h and another {n2} minutes later at {n3} km/h. When do they meet?
            Solve for x: {small}x + {n2} = {n3}.
            If {person} invests {money} at {small} % a year, how much is it worth after {n2} months?
            Convert {n4} minutes to days, hours and minutes.
            {hard}Find the eigenvalues of [[{small}, {n2}], [{small}, {small}]].
            {hard}Evaluate the integral of x^{small} * e^({small}x) from 0 to {small}.
            {hard}Prove that {n2}^n - {small} is composite for infinitely many n, and give {small} examples.
            """  # noqa: E501
        ),
        "analysis": _lines(
            """
            Analyze how {topic} affects {topic} for a company like {company}.
            Design a {system} for {company} that serves {n2} thousand users.
            Compare {topic} and {topic} as priorities for {company}.
            Should {company} move its {system} to {city}? Reason through {quality} and {quality}.
            {hard}Architect a multi-region {system} with {n3} writes a second and strict {quality}.
            {hard}Analyze the root cause of a {n2} % fall in {topic} after the {month} release.
            """
        ),
    },
    clauses={
        "extraction": _lines(
            """
            Also return the {field}.
            Use null where the {field} is missing.
            Format every date as YYYY-MM-DD.
            Convert amounts to USD at {small}.{n2}.
            Keep the order in which they appear.
            Mark any {field} that you are not sure about.
            """
        ),
        "classification": _lines(
            """
            Add a confidence from 0 to 100.
            If two labels fit, choose {label}.
            Give the words that decided it.
            Say whether {person} has to be told.
            Rate how urgent it is from 1 to {small}.
            """
        ),
        "translation": _lines(
            """
            Keep the names and numbers as they are.
            Use a formal tone.
            Keep the idioms natural for readers in {city}.
            Translate the units as well.
            Then back-translate it so that {person} can check it.
            """
        ),
        "summarising": _lines(
            """
            Mention every deadline.
            Leave out names.
            End with what {person} should do next.
            Point out anything that contradicts {topic}.
            Separate facts from opinions.
            """
        ),
        "qa": _lines(
            """
            Give an example from {city}.
            Explain it as you would to a child of {small}.
            Explain why experts disagree about it.
            Mention how it relates to {topic}.
            Say what changed since {year}.
            Add the formula if there is one.
            """
        ),
        "code": _lines(
            """
            Handle empty input.
            Add {small} unit tests.
            It must run in O(n log n).
            Use no external libraries.
            Make it safe for concurrent callers.
            Explain the trade-off you chose in memory.
            Then show how {company} would deploy it.
            """
        ),
        "mathematics": _lines(
            """
            Then subtract {n2} from the result.
            Then multiply that by {small}.
            Then add {n3} and divide by {small}.
            Show each step.
            Then repeat it with {n2} instead.
            Give the answer to {small} decimals.
            Check the result in a second way.
            """
        ),
        "analysis": _lines(
            """
            Quantify the trade-off between {quality} and {quality}.
            Assume a budget of {money} and {small} engineers.
            Consider what {topic} would change.
            Compare at least {small} alternatives.
            List the risks and how to test each.
            Explain why the obvious answer may be wrong.
            Give a plan for the first {n2} days.
            """
        ),
    },
    sentences=_lines(
        """
        {person} from {company} ordered {n2} units of the {thing} on {date}.
        The invoice {code} for {money} is due on {date}.
        Our {city} office says the {thing} stopped working after {small} days.
        Please send the replacement to {city} and write to {email}.
        I have called {team} {small} times and nobody knows where my {thing} is.
        The contract with {company} ends on {date} unless {person} renews it.
        Revenue in {month} rose {small} % while costs in {city} fell by {n2} thousand.
        {person} wants the {team} team to look at {topic} before {month}.
        A delay at {company} means that {n2} orders will miss the {month} deadline.
        Thank you for the quick help with {code}, the {thing} is great!
        We paid {money} twice for {code} and would like one of them back.
        The meeting about {topic} moves to {date}, in {city}.
        """
    ),
)

_SPANISH = Language(
    words={
        **_SHARED,
        "city": _items("Sevilla|Bilbao|Bogotá|Rosario|Lima|Puebla|Valencia|Quito|Zaragoza|Málaga"),
        "date": _items("{day} de {month}|{day} de {month} de {year}|{day} de {month}"),
        "month": _items(
            "enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
        ),
        "team": _items("soporte|facturación|logística|ventas|legal|almacén|personal|finanzas"),
        "thing": _items(
            "el altavoz|el escritorio|el molinillo de café|la mochila azul|el cargador|"
            "la manguera|la silla de oficina|el chubasquero|la lámpara|el termo|el filtro de agua"
        ),
        "expert_thing": _items(
            "la enfriadora centrífuga|el estent coronario|el reductor armónico|"
            "el espectrómetro de masas|el aislador galvánico|la transmisión hidrostática|"
            "el criostato|la junta de fluoropolímero"
        ),
        "topic": _items(
            "la inflación|el teletrabajo|el interés compuesto|la vacunación|el reciclaje|"
            "la compra en línea|el coche eléctrico|el sueño|el transporte público|"
            "el ciclo del agua|la fidelidad del cliente|la declaración de la renta|"
            "el panel solar|el comedor escolar|el envío gratuito|el seguro de hogar"
        ),
        "expert_topic": _items(
            "la cláusula de subrogación|la semivida farmacocinética|la degeneración espectral|"
            "la heterocedasticidad residual|el precio de transferencia|la tolerancia bizantina|"
            "la volatilidad estocástica|la metilación epigenética|la financiación de entresuelo|"
            "el fraccionamiento isotópico|la doctrina de los actos propios|el quórum bacteriano"
        ),
        "quality": _items(
            "el coste|la latencia|la fiabilidad|la privacidad|la facilidad de uso|el consumo"
        ),
        "label": _items("urgente|factura|queja|elogio|reembolso|spam|pregunta|envío|técnico"),
        "field": _items(
            "el nombre|la fecha|el importe|la ciudad|el número de pedido|el correo|el producto|"
            "el plazo|la empresa"
        ),
        "tongue": _items("inglés|francés|alemán|portugués|italiano"),
        "job": _items(
            "invierta una lista enlazada|elimine filas duplicadas|lea una fecha como {date}|"
            "agrupe pedidos por ciudad|encuentre los {n2} valores mayores|valide un correo|"
            "una dos listas ordenadas|cuente las palabras de un fichero|redondee precios"
        ),
        "hard_job": _items(
            "planifique {n2} tareas con dependencias en {small} procesos|mantenga una caché LRU "
            "segura entre hilos|calcule en flujo la mediana de {n4} sensores|compare dos árboles "
            "sintácticos|reintente peticiones idempotentes con espera aleatoria"
        ),
        "system": _items(
            "plataforma de reservas|pasarela de pagos|red de almacenes|central de mensajes|"
            "cadena de informes|agenda clínica|tienda en línea"
        ),
    },
    openers=(
        "",
        "",
        "",
        "",
        "¡Hola!",
        "Buenos días.",
        "Una duda rápida:",
        "Para el equipo de {team}:",
    ),
    cores={
        "extraction": _lines(
            """
            Extrae {field} y {field} del texto siguiente.
            Indica {field} que aparece en este mensaje.
            Lee esta nota y dame {field}.
            Saca {field} y {field} en formato JSON.
            ¿Puedes encontrar {field} en este correo?
            """
        ),
        "classification": _lines(
            """
            Clasifica este mensaje como {label}, {label} o {label}.
            ¿Es este mensaje de tipo {label}? Responde sí o no.
            ¿Qué etiqueta encaja mejor: {label}, {label}, {label} o {label}?
            Asigna este aviso a {team} o a {team}.
            ¿El tono de este texto es positivo, neutro o negativo?
            """
        ),
        "translation": _lines(
            """
            Traduce esto al {tongue}.
            Traduce el mensaje siguiente al {tongue} para un cliente de {city}.
            ¿Cómo se dice esto en {tongue}?
            Dame este texto en {tongue} para {person}.
            """
        ),
        "summarising": _lines(
            """
            Resume brevemente el texto siguiente.
            Resume esto para {person} en {small} puntos.
            Dame lo principal de estas notas en menos de {n2} palabras.
            Escribe un resumen de una línea y un asunto para este mensaje.
            Convierte estas novedades en un informe corto para {team}.
            """
        ),
        "qa": _lines(
            """
            ¿Qué es {topic} y por qué importa en una {system}?
            ¿Cómo funciona {topic}? Escribo para {company}.
            ¿Cuándo debe una empresa de {city} pensar en {topic}?
            ¿Qué diferencia hay entre {topic} y {topic}?
            ¿Puedo devolver {thing} si la compra fue el {date} por {money}?
            ¿Cuáles son los {small} errores más comunes con {topic}?
            """
        ),
        "code": _lines(
            """
            Escribe una función en {lang} que {job}.
            Escribe un programa en {lang} que {job} y luego {job}.
            Corrige este código, falla con {n2} filas:\\n\\n{snippet}\\n\\n
            Reescribe esto y explica por qué es lento con {n4} filas:\\n\\n{snippet}\\n\\n
            {hard}Implementa un módulo en {lang} que {hard_job}.
            {hard}Depura un interbloqueo en nuestra {system} en {lang} con {n3} peticiones por segundo.
            {hard}Optimiza una rutina en {lang} que {hard_job} para la {system} de {company}.
            """  # noqa: E501
        ),
        "mathematics": _lines(
            """
            ¿Cuánto es {n3} x {n2} + {n3}?
            Un tren sale de {city} a {n2} km/h y otro {n2} minutos después a {n3} km/h. ¿Cuándo se cruzan?
            Resuelve para x: {small}x + {n2} = {n3}.
            Si {person} invierte {money} al {small} % anual, ¿cuánto tendrá tras {n2} meses?
            Pasa {n4} minutos a días, horas y minutos.
            {hard}Halla los autovalores de [[{small}, {n2}], [{small}, {small}]].
            {hard}Calcula la integral de x^{small} * e^({small}x) entre 0 y {small}.
            {hard}Demuestra que {n2}^n - {small} es compuesto para infinitos n y da {small} ejemplos.
            """  # noqa: E501
        ),
        "analysis": _lines(
            """
            Analiza cómo {topic} afecta a {topic} en una empresa como {company}.
            Diseña una {system} para {company} con {n2} mil usuarios.
            Compara {topic} y {topic} como prioridades de {company}.
            ¿Debe {company} llevar su {system} a {city}? Razona sobre {quality} y {quality}.
            {hard}Diseña una {system} en varias regiones con {n3} escrituras por segundo.
            {hard}Analiza la causa de una caída del {n2} % tras la versión de {month}, con {topic}.
            """
        ),
    },
    clauses={
        "extraction": _lines(
            """
            Devuelve también {field}.
            Usa null donde falte {field}.
            Escribe las fechas como AAAA-MM-DD.
            Convierte los importes a USD a {small},{n2}.
            Mantén el orden en que aparecen.
            Señala si no tienes claro {field}.
            """
        ),
        "classification": _lines(
            """
            Añade una confianza de 0 a 100.
            Si encajan dos etiquetas, elige {label}.
            Da las palabras que lo deciden.
            Di si hay que avisar a {person}.
            Puntúa la urgencia de 1 a {small}.
            """
        ),
        "translation": _lines(
            """
            Deja los nombres y los números como están.
            Usa un tono formal.
            Que los giros suenen naturales en {city}.
            Traduce también las unidades.
            Después tradúcelo de vuelta para que {person} lo revise.
            """
        ),
        "summarising": _lines(
            """
            Menciona todos los plazos.
            Omite los nombres.
            Termina con lo que debe hacer {person}.
            Señala lo que contradiga {topic}.
            Separa hechos y opiniones.
            """
        ),
        "qa": _lines(
            """
            Da un ejemplo de {city}.
            Explícalo como a un niño de {small} años.
            Explica por qué discrepan los expertos.
            Di qué relación tiene con {topic}.
            Di qué ha cambiado desde {year}.
            Añade la fórmula si la hay.
            """
        ),
        "code": _lines(
            """
            Contempla la entrada vacía.
            Añade {small} pruebas unitarias.
            Debe tardar O(n log n).
            No uses bibliotecas externas.
            Que sea seguro con llamadas concurrentes.
            Explica cuánta memoria sacrificas.
            Muestra después cómo lo desplegaría {company}.
            """
        ),
        "mathematics": _lines(
            """
            Después resta {n2} al resultado.
            Después multiplícalo por {small}.
            Después suma {n3} y divide entre {small}.
            Muestra cada paso.
            Después repítelo con {n2}.
            Da la respuesta con {small} decimales.
            Comprueba el resultado de otra forma.
            """
        ),
        "analysis": _lines(
            """
            Cuantifica el equilibrio entre {quality} y {quality}.
            Supón un presupuesto de {money} y {small} ingenieros.
            Considera qué cambiaría {topic}.
            Compara al menos {small} alternativas.
            Enumera los riesgos y cómo probar cada uno.
            Explica por qué la respuesta obvia puede fallar.
            Da un plan para los primeros {n2} días.
            """
        ),
    },
    sentences=_lines(
        """
        {person}, de {company}, pidió {thing} el {date} con {n2} accesorios.
        La factura {code} de {money} vence el {date}.
        La oficina de {city} dice que {thing} dejó de funcionar a los {small} días.
        Envíen el repuesto a {city} y escriban a {email}.
        He llamado a {team} {small} veces y nadie sabe dónde está {thing}.
        El contrato con {company} acaba el {date} si {person} no lo renueva.
        En {month} los ingresos subieron un {small} % y los costes de {city} bajaron {n2} mil.
        {person} quiere que {team} revise {topic} antes de {month}.
        Por un retraso de {company}, {n2} pedidos no llegarán en {month}.
        Gracias por la ayuda con {code}, ¡me encanta {thing}!
        Hemos pagado {money} dos veces por {code} y queremos recuperar una.
        La reunión sobre {topic} pasa al {date}, en {city}.
        """
    ),
    contractions=((" de el ", " del "), (" a el ", " al ")),
)

LANGUAGES: Mapping[str, Language] = {"en": _ENGLISH, "es": _SPANISH}
