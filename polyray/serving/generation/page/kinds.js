// Clusters as something to see: a letter, a colour and a pattern each, so that no one depends on colour alone.
// The colours are Okabe and Ito's, which people with any kind of colour vision tell apart; page.css has them.

const NUM_COLOURS = 7;
const NUM_PATTERNS = 4;

/** Numbers the clusters of candidates in the order in which they appear; null, the wrong ones, has none. */
export function kindsOf(candidates) {
  const kinds = new Map();
  for (const { cluster } of candidates) {
    if (cluster !== null && !kinds.has(cluster)) kinds.set(cluster, kinds.size);
  }
  return kinds;
}

/** What is written, and the classes that colour it. Colour and pattern repeat together after 28 kinds only. */
export function describeKind(kinds, cluster) {
  if (cluster === null) return { label: "wrong", classes: ["wrong"] };
  const number = kinds.get(cluster);
  const classes = [`colour-${number % NUM_COLOURS}`, `pattern-${number % NUM_PATTERNS}`];
  return { label: `kind ${lettersOf(number)}`, classes };
}

/** 0 is A, 25 is Z, 26 is AA. */
export function lettersOf(number) {
  const letter = String.fromCharCode(65 + (number % 26));
  return number < 26 ? letter : lettersOf(Math.floor(number / 26) - 1) + letter;
}
