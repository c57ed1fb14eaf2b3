// Opens the page in headless Chromium, types the sentences given, and prints what it shows, a JSON line each.
//     node check.mjs http://127.0.0.1:8000/ screenshot.png "wake me up at six" "play some jazz"
import { chromium } from "playwright-core";

const [address, picture, ...sentences] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  const page = await browser.newPage({ viewport: { width: 760, height: 520 } });
  const elsewhere = [];
  const messages = [];
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(address) && !url.startsWith("blob:") && !url.startsWith("data:")) elsewhere.push(url);
  });
  page.on("console", (message) => messages.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => messages.push(`error: ${error.message}`));
  await page.goto(address);
  await page.waitForSelector("#text:enabled, #error:not(:empty)", { timeout: 120000 });
  const error = await page.textContent("#error");
  if (error) throw new Error(`${error}\n${messages.join("\n")}`);
  for (const sentence of sentences) {
    await page.fill("#text", sentence);
    await page.waitForFunction((typed) => document.body.dataset.answered === typed, sentence);
    const answers = await page.$$eval("#labels li", (rows) =>
      rows.map((row) => ({ label: row.children[0].textContent, score: row.children[2].value })),
    );
    const shown = await page.textContent("#status");
    console.log(JSON.stringify({ sentence, answers, shown }));
  }
  await page.screenshot({ path: picture });
  console.log(JSON.stringify({ elsewhere, messages }));
} finally {
  await browser.close();
}
