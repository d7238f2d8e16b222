import { expect, test } from "vitest";
import { renderFrontier } from "../../../src/verify/html/frontier.ts";

const plan = (bytes: number, loss: number) => ({ bytes, loss, text: `${bytes} bytes` });

test("the frontier is a line through its plans; what it has to beat is beside it", () => {
  const page = renderFrontier({
    title: "Frontier: w4a8",
    unit: "noise ÷ signal",
    points: [plan(100, 0.1), plan(150, 0.02), plan(200, 0.001)],
    others: [plan(150, 0.03)],
  });
  expect(page.match(/<circle/g)).toHaveLength(4);
  const path = /<path class="line" d="M([^"]+)"/.exec(page)?.[1] ?? "";
  const ys = path.split("L").map((p) => Number(p.split(",")[1]));
  expect(ys).toHaveLength(3);
  // Down the page is more loss; decades are equally far: 0.1 to 0.02 is 0.7 of one, 0.02 to 0.001 is 1.3.
  expect(ys[0]).toBeLessThan(ys[1]!);
  expect((ys[2]! - ys[1]!) / (ys[1]! - ys[0]!)).toBeCloseTo(Math.log(20) / Math.log(5), 1);
  expect(page).not.toContain("<script");
});
