export { AUGMENTATIONS, type Augmentation, augment, fittingAugmentations } from "./augment.ts";
export { type CheckpointKey, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
export { importQat, parseQatList } from "./import.ts";
export { type InsertForm, insertQat, type QatList } from "./insert.ts";
export { OPTIMIZERS, type Optimizer } from "./optimizer.ts";
export { QAT_DEFAULTS, type QatOptions, trainedFor } from "./options.ts";
export { type QatCheckpoint, type QatProgress, type QatResult, stepGraphOf, type TrainQat, trainQat } from "./train.ts";
export { type FloatTrained, type FloatTraining, trainFloat } from "./weights.ts";
