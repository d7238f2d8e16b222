import { qatTrain } from "../../finetune.ts";
import { fileNameOf } from "../../io/path.ts";
import type { QAT_TRAIN } from "../../options.ts";
import type { Context, ExitCode } from "../command.ts";
import { duration } from "../print.ts";
import { eventPrinter } from "../summary.ts";

export async function run(c: Context<typeof QAT_TRAIN>): Promise<ExitCode> {
  const { print } = c;
  const { memory: _, ...options } = c.options;
  let told = "";
  const { files, result, plan } = await qatTrain(c.args[0]!, {
    ...options,
    signal: c.signal,
    onEvent: eventPrinter(print),
    onTrain: (p) => {
      const line = `select ${p.startDb.toFixed(2)} → ${p.selectDb.toFixed(2)} dB (best ${p.bestDb.toFixed(2)})`;
      if (line === told) return;
      told = line;
      print.talk(
        `${"train".padEnd(10)} ${`step ${p.step} of ${p.steps}`.padEnd(20)} loss ${p.loss.toPrecision(3)} · ${line}   ${duration(p.etaSeconds)} left`,
      );
    },
  });
  const { losses: __, ...facts } = result;
  print.document({ ok: true, files: files.map(fileNameOf), target: plan.plan.target, recipe: plan.plan.recipe, ...facts });
  const kept = result.bestStep > 0 ? `best at step ${result.bestStep}` : "the start was best and is kept";
  print.out(
    `${"train".padEnd(10)} ${result.start.errorDb.toFixed(2)} → ${result.best.errorDb.toFixed(2)} dB on select, ${kept} (${result.steps} steps, ${result.samples} samples, ${duration(result.seconds)})`,
  );
  print.out(`${"wrote".padEnd(10)} ${files.join(", ")}`);
  return 0;
}
