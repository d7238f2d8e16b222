export { AUGMENTATIONS, type Augmentation, augment, fittingAugmentations } from "./augment.ts";
export { OPTIMIZERS, type Optimizer } from "./optimizer.ts";
export { QAT_DEFAULTS, type QatOptions } from "./options.ts";
export { type QatCheckpoint, type QatProgress, type QatResult, type TrainQat, trainQat } from "./train.ts";
export { type FloatTrained, type FloatTraining, trainFloat } from "./weights.ts";
