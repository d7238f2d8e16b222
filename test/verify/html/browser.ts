/** The part of playwright-core that the test uses. */
interface Tab {
  on(event: "console", f: (m: { text(): string }) => void): void;
  on(event: "pageerror", f: (e: Error) => void): void;
  on(event: "request", f: (r: { url(): string }) => void): void;
  goto(url: string): Promise<unknown>;
  evaluate(script: string): Promise<unknown>;
  fill(selector: string, text: string): Promise<void>;
  readonly keyboard: { press(key: string): Promise<void> };
}
interface BrowserContext {
  newPage(): Promise<Tab>;
  close(): Promise<void>;
}
interface Browser {
  newContext(o: { colorScheme: "light" | "dark"; viewport: { width: number; height: number } }): Promise<BrowserContext>;
  close(): Promise<void>;
}
export declare const chromium: { launch(o: { executablePath: string; args: string[] }): Promise<Browser> };
