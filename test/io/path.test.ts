import { expect, test } from "vitest";
import { joinPath } from "../../src/io/path.ts";

test("an absolute path in a config stays what it is", () => {
  expect(joinPath("configs", "models/a.onnx")).toBe("configs/models/a.onnx");
  expect(joinPath("/configs", "/models/a.onnx")).toBe("/models/a.onnx");
  expect(joinPath("/configs", "/models", "a.onnx")).toBe("/models/a.onnx");
});
