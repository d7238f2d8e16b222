// Distorted digits, drawn from strokes: 28×28 grey pixels, white on black. Only + − × ÷ and square roots, which every machine rounds alike,
// so a seed and an index give the same bytes everywhere.

export const SIZE = 28;
/** What the set file splits; training draws from other seeds. */
export const COUNT = 2000;
export const SEED = 20260101;

/** splitmix32: a stream of numbers in [0, 1) for each (seed, index). */
function stream(seed, index) {
  let s = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca77)) | 0;
  return () => {
    s = (s + 0x9e3779b9) | 0;
    let t = s ^ (s >>> 16);
    t = Math.imul(t, 0x21f0aaad);
    t ^= t >>> 15;
    t = Math.imul(t, 0x735a2d97);
    return ((t ^ (t >>> 15)) >>> 0) / 2 ** 32;
  };
}

/**
 * Points on an ellipse from quarter `from` to quarter `to` (0: right, 1: below, 2: left, 3: above; y points down; may run backward),
 * by the rational circle ((1 − t²)/(1 + t²), 2t/(1 + t²)).
 */
function arc(cx, cy, rx, ry, from, to) {
  const points = [];
  const steps = Math.max(2, Math.ceil(Math.abs(to - from) * 6));
  for (let i = 0; i <= steps; i++) {
    const turn = from + ((to - from) * i) / steps;
    const quarter = Math.floor(turn);
    const t = turn - quarter;
    const [x, y] = [(1 - t * t) / (1 + t * t), (2 * t) / (1 + t * t)];
    const [px, py] = [[x, y], [-y, x], [-x, -y], [y, -x]][((quarter % 4) + 4) % 4];
    points.push([cx + rx * px, cy + ry * py]);
  }
  return points;
}

/** The strokes of each digit in the unit square, in the ways that people write it. */
const SHAPES = [
  [[arc(0.5, 0.5, 0.27, 0.4, 0, 4)]],
  [
    [[[0.34, 0.28], [0.54, 0.1], [0.54, 0.9]]],
    [[[0.5, 0.1], [0.5, 0.9]]],
    [[[0.34, 0.28], [0.54, 0.1], [0.54, 0.9]], [[0.3, 0.9], [0.76, 0.9]]],
  ],
  [[[...arc(0.5, 0.34, 0.25, 0.24, 2, 4.5), [0.24, 0.9], [0.78, 0.9]]]],
  [
    [[...arc(0.47, 0.3, 0.25, 0.2, 2.3, 5), ...arc(0.47, 0.7, 0.28, 0.2, 3, 5.7)]],
    [[[0.26, 0.1], [0.74, 0.1], [0.48, 0.44], ...arc(0.47, 0.67, 0.27, 0.23, 3.2, 5.7)]],
  ],
  [
    [[[0.62, 0.9], [0.62, 0.1], [0.2, 0.64], [0.82, 0.64]]],
    [[[0.3, 0.12], [0.26, 0.52], [0.76, 0.52]], [[0.68, 0.16], [0.64, 0.9]]],
  ],
  [[[[0.74, 0.12], [0.32, 0.12], [0.29, 0.46], ...arc(0.48, 0.66, 0.27, 0.24, 2.8, 5.7)]]],
  [[[[0.66, 0.1], [0.42, 0.3], [0.29, 0.58], ...arc(0.51, 0.68, 0.23, 0.22, 2, 6)]]],
  [
    [[[0.22, 0.12], [0.78, 0.12], [0.44, 0.9]]],
    [[[0.22, 0.12], [0.78, 0.12], [0.44, 0.9]], [[0.36, 0.5], [0.74, 0.5]]],
  ],
  [[arc(0.5, 0.3, 0.21, 0.2, 0, 4), arc(0.5, 0.7, 0.25, 0.21, 0, 4)]],
  [
    [[...arc(0.49, 0.32, 0.23, 0.22, 4, 0), [0.71, 0.5], [0.6, 0.9]]],
    [[...arc(0.49, 0.32, 0.23, 0.22, 4, 0), [0.7, 0.6], ...arc(0.5, 0.7, 0.2, 0.2, 0.2, 1.8)]],
  ],
];

/** Draws strokes (pixel coordinates) into coverage 0…1: a pixel's distance from the nearest stroke, softened over one pixel. */
function draw(cover, strokes, radius) {
  for (const points of strokes) {
    for (let i = 1; i < points.length; i++) {
      const [ax, ay] = points[i - 1];
      const [dx, dy] = [points[i][0] - ax, points[i][1] - ay];
      const length2 = dx * dx + dy * dy;
      const reach = radius + 1;
      const [x0, x1] = [Math.min(ax, ax + dx) - reach, Math.max(ax, ax + dx) + reach].map(Math.floor);
      const [y0, y1] = [Math.min(ay, ay + dy) - reach, Math.max(ay, ay + dy) + reach].map(Math.floor);
      for (let y = Math.max(0, y0); y <= Math.min(SIZE - 1, y1); y++) {
        for (let x = Math.max(0, x0); x <= Math.min(SIZE - 1, x1); x++) {
          const [px, py] = [x + 0.5 - ax, y + 0.5 - ay];
          const along = length2 === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / length2));
          const [ex, ey] = [px - along * dx, py - along * dy];
          const inside = Math.min(1, Math.max(0, radius + 0.5 - Math.sqrt(ex * ex + ey * ey)));
          if (inside > cover[y * SIZE + x]) cover[y * SIZE + x] = inside;
        }
      }
    }
  }
}

/** One digit: its class, and SIZE × SIZE pixels. */
export function digit(seed, index) {
  const random = stream(seed, index);
  const between = (lo, hi) => lo + (hi - lo) * random();
  // Bell-shaped in (−1, 1), so that strong distortions are rarer than weak ones.
  const bell = () => (random() + random() + random()) / 1.5 - 1;
  const label = index % 10;
  const shapes = SHAPES[label];
  const shape = shapes[Math.floor(random() * shapes.length)];

  const turn = bell() * 0.22; // tan of half the angle: up to ±25°
  const [c, s] = [(1 - turn * turn) / (1 + turn * turn), (2 * turn) / (1 + turn * turn)];
  const shear = bell() * 0.45;
  const [width, height] = [between(0.62, 1.05), between(0.72, 1.05)];
  const [left, top] = [bell() * 3, bell() * 3];
  const bend = bell() * 0.35;
  const wobble = 0.05;
  const place = ([x, y]) => {
    const [u, v] = [(x - 0.5 + wobble * bell()) * width, (y - 0.5 + wobble * bell()) * height];
    const bent = u + shear * v + bend * (v * v - 0.1);
    return [SIZE / 2 + left + 22 * (c * bent - s * v), SIZE / 2 + top + 22 * (s * bent + c * v)];
  };

  const cover = new Float64Array(SIZE * SIZE);
  draw(cover, shape.map((stroke) => stroke.map(place)), between(0.55, 1.7));
  const ink = between(0.45, 1);
  // Scratches that are no part of the digit, fainter than it.
  const scratches = new Float64Array(SIZE * SIZE);
  for (let k = Math.floor(random() * 3); k > 0; k--) {
    const [x, y] = [random() * SIZE, random() * SIZE];
    draw(scratches, [[[x, y], [x + bell() * 9, y + bell() * 9]]], between(0.3, 0.8));
  }
  const noise = between(0, 0.45);
  const paper = between(0, 0.18);
  const pixels = new Uint8Array(SIZE * SIZE);
  for (let i = 0; i < pixels.length; i++) {
    const clean = Math.max(ink * cover[i], 0.5 * ink * scratches[i]);
    const v = paper + (1 - paper) * clean + noise * bell();
    pixels[i] = Math.floor(255.999 * Math.min(1, Math.max(0, v)));
  }
  return { label, pixels };
}

/** The samples of the set: `image` uint8 [1, 28, 28]. */
export function* samples() {
  for (let i = 0; i < COUNT; i++) {
    const { label, pixels } = digit(SEED, i);
    yield { id: String(i), feeds: { image: { dtype: "uint8", dims: [1, SIZE, SIZE], data: pixels } }, label };
  }
}
